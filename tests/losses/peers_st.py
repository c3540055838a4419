"""How the losses of sentence-transformers are driven without a model: by rows that are given; and the rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity import Proof, agree, needs

D = 6


def rows(count: int, seed: int, dims: int = D) -> Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)


A, B, C, G = rows(7, 1), rows(7, 2), rows(7, 3), rows(7, 4)
SIMILAR, GRADES = torch.tensor([1, 0, 1, 1, 0, 0, 1]), torch.tensor([0.9, 0.1, 0.6, 0.6, 0.3, 0.0, 1.0], dtype=torch.float64)
TEACHER = torch.rand(7, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
Z, LABELS = rows(9, 6), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 1])
GUIDE_Q, GUIDE_P, GUIDE_N = (unit(rows(7, seed, 4)) for seed in (7, 8, 9))


def peers() -> Any:
    """The module of the peer's losses; skips where it is not installed."""
    needs("sentence_transformers")
    import sentence_transformers.sentence_transformer.losses as found

    return found


class Rows(nn.Module):
    """A model that embeds by handing back one of its features."""

    def __init__(self, key: str = "rows") -> None:
        super().__init__()
        self.key, self.device, self.max_seq_length = key, torch.device("cpu"), 8

    def __getitem__(self, place: int) -> nn.Module:
        return self

    def get_embedding_dimension(self) -> int:
        return D

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.key]}


def columns(*found: Tensor) -> list[dict[str, Any]]:
    return [{"rows": column} for column in found]


def with_tokenizer(model: Rows) -> Rows:
    """What the guided losses ask of a model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    return model


def guided(kind: str, guides: list[Tensor], **options: Any) -> Callable[..., Tensor]:
    def loss(*found: Tensor) -> Tensor:
        made = getattr(peers(), kind)(with_tokenizer(Rows()), with_tokenizer(Rows("guide")), temperature=0.05, **options)
        return made([{"rows": r, "guide": g} for r, g in zip(found, guides, strict=True)], None)

    return loss


def plain(kind: str, labels: Tensor | None = None, **options: Any) -> Callable[..., Tensor]:
    """A class's own loss of these embeddings."""
    return lambda *found: getattr(peers(), kind)(Rows(), **options)(columns(*found), labels)


def distance(kind: str, name: str, labels: Tensor | None = None, **options: Any) -> Callable[..., Tensor]:
    """As `plain`, with one of the peer's distances of pairs."""

    def loss(*found: Tensor) -> Tensor:
        metric = peers().TripletDistanceMetric if kind == "TripletLoss" else peers().SiameseDistanceMetric
        return plain(kind, labels, distance_metric=getattr(metric, name), **options)(*found)

    return loss


def batch(kind: str, name: str = "euclidean_distance", **options: Any) -> Callable[..., Tensor]:
    """As `plain`, of one column and labels, with one of the peer's distances within a batch."""

    def loss(z: Tensor) -> Tensor:
        metric = getattr(peers().BatchHardTripletLossDistanceFunction, name)
        return plain(kind, LABELS, distance_metric=metric, **options)(z)

    return loss


def nested(kind: str, inner: str, *, labels: Tensor | None = None, inner_options: dict[str, Any] | None = None, **options: Any):
    """A class around another."""

    def loss(*found: Tensor) -> Tensor:
        model = Rows()
        within = getattr(peers(), inner)(model, **(inner_options or {}))
        return getattr(peers(), kind)(model, within, **options)(columns(*found), labels)

    return loss


def layered(kind: str, **options: Any) -> Callable[..., Tensor]:
    """A class over layers, of a model whose layers are given; queries' layers, then candidates', the last one last."""

    def loss(*found: Tensor) -> Tensor:
        losses = peers()
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sentence_transformer.model import SentenceTransformer

        class Given(Transformer):
            auto_model = SimpleNamespace(config=SimpleNamespace(output_hidden_states=False))  # pyright: ignore

            def __init__(self) -> None:
                nn.Module.__init__(self)

            def forward(self, features, **kwargs):
                return {**features, "token_embeddings": features["all_layer_embeddings"][-1]}

        class Model(SentenceTransformer):
            def __init__(self) -> None:
                nn.Sequential.__init__(self, Given())

            def get_embedding_dimension(self) -> int:
                return D

            def forward(self, features, **kwargs):
                return {"sentence_embedding": self[0](features)["token_embeddings"]}

        model, half = Model(), len(found) // 2
        features = [{"all_layer_embeddings": found[:half]}, {"all_layer_embeddings": found[half:]}]
        inner = losses.MultipleNegativesRankingLoss(model)
        return getattr(losses, kind)(model, inner, n_layers_per_step=-1, **options)(features, None)

    return loss


def spread(**options: Any) -> Callable[..., Tensor]:
    return lambda *found: sum(plain("GlobalOrthogonalRegularizationLoss", **options)(*found).values())  # pyright: ignore


def classifier(*, product: bool = False) -> Callable[..., Tensor]:
    def loss(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        made = peers().SoftmaxLoss(Rows(), D, 3, concatenation_sent_multiplication=product)
        for name, value in (("weight", weight), ("bias", bias)):
            delattr(made.classifier, name)
            setattr(made.classifier, name, value)
        return made(columns(a, b), LABELS[:7])

    return loss


def tension(kind: str, labels: Tensor | None = None) -> Callable[..., Tensor]:
    """Two models that see the same sentences: each has its own rows."""

    def loss(a: Tensor, b: Tensor) -> Tensor:
        made = getattr(peers(), kind)(Rows("b")).double()
        made.model1 = Rows("a")
        return made([{"a": a, "b": b}] * (1 if labels is None else 2), labels)

    return loss


def proof(
    kind: str, ours: str, theirs: Callable[..., Tensor], note: str, *, unit: bool = False, tolerance: float = 1e-7, **given: Any
) -> Proof:
    """`given` are the inputs, which take gradients, and facts, which do not (FACTS)."""
    inputs = {name: value for name, value in given.items() if isinstance(value, Tensor) and not name.startswith(FACTS)}
    facts = {name: value for name, value in given.items() if name not in inputs}
    check = functools.partial(agree, ours, theirs, inputs, unit=unit, tolerance=tolerance, **facts)
    return Proof(f"sentence_transformers.losses.{kind}", ours, note, check)


FACTS = ("similar", "scores", "labels", "teacher", "guide", "others")
"""How the names of what takes no gradient begin."""
PAIR = {"a": A, "b": B}
MNRL, CACHED = "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"

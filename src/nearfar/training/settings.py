"""How a setting is written: a default with its meaning beside it. And what a run is told about model, optimizer, views and past batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nearfar.encoders.adapt import Towers
from nearfar.encoders.dense import HeadKind, ProjectorKind
from nearfar.encoders.views import AugmentKind

Schedule = Literal["linear", "cosine", "constant"]
OptimizerName = Literal["adamw", "lars"]


def setting(default: Any, meaning: str) -> Any:
    """A field of a settings class."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) or LARS (You 2017), and the schedule."""

    name: OptimizerName = setting("adamw", "adamw, or lars for large batches of pictures (SimCLR's)")
    weight_decay: float = setting(0.0, "decoupled weight decay per step, times the learning rate; for static, of touched rows")
    scale: dict[str, float] | None = setting(
        None, "the learning rate of some parameters times a factor, by name pattern, as in text.*:100"
    )
    momentum: float = setting(0.9, "of lars: decay of the past steps")
    trust: float = setting(0.001, "of lars: a layer's step as a share of its weights")
    beta1: float = setting(0.9, "decay of the mean of gradients")
    beta2: float = setting(0.999, "decay of the mean of squared gradients")
    epsilon: float = setting(1e-8, "added to the root of the squared gradients")
    clip: float = setting(1.0, "largest norm of the whole gradient; 0: never clipped")
    schedule: Schedule = setting("linear", "how the learning rate falls after warm-up: linear, cosine or constant")


@dataclass(frozen=True)
class ModelConfig:
    """What is put on the encoder before training, and what of it stays as it is."""

    head: HeadKind = setting("none", "new layers on the pooled row: none, linear, or mlp (linear, ReLU, linear, as in SimCLR)")
    head_dim: int | None = setting(None, "dimensions of the head's rows (default: as wide as before)")
    towers: Towers = setting("shared", "queries and documents through one encoder (shared) or two that start equal (separate)")
    projector: ProjectorKind = setting(
        "none",
        "of pictures: SimCLR's projection head, there in training only: none, linear, simclr (two layers) or simclr2 (three)",
    )
    projector_dim: int = setting(128, "dimensions of the projector's rows")
    truncate_dim: int | None = setting(None, "dimensions kept of every row (default: as the model says)")
    dropout: float | None = setting(
        None, "every dropout rate of the transformer, hidden and attention (default: its own); 0: none"
    )
    freeze: str = setting("", "parameters that stay as they are: name patterns with commas between, as encoder.layer.0.*")
    freeze_layers: int = setting(0, "layers that stay as they are, from the first")
    freeze_embeddings: bool = setting(False, "whether the token embeddings stay as they are")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu 2021) in place of the transformer's own weights; needs `peft`."""

    rank: int = setting(0, "rank of the adapters, which alone are trained (with a head); 0: none, every weight is trained")
    alpha: float | None = setting(None, "adapters are scaled by alpha / rank (default: twice the rank)")
    dropout: float = setting(0.0, "share of an adapter's inputs dropped while training")
    targets: str = setting("", "names of the layers adapted, commas between (default: peft's choice); all-linear: every one")


@dataclass(frozen=True)
class AugmentConfig:
    """Views of pictures: what an image tower sees in training, drawn anew in every step (`nearfar.data.augment`); see `docs/images.md`."""

    kind: AugmentKind = setting(
        "none", "views of pictures: none, light (CLIP), cifar or simclr (crops, colours, grey; simclr also blur)"
    )
    strength: float = setting(1.0, "of simclr: how much colours are changed")


@dataclass(frozen=True)
class QueueConfig:
    """Rows of past batches as further negatives, by a slow copy of the encoder (MoCo: He 2020, arXiv 1911.05722)."""

    size: int = setting(0, "rows kept; 0: no queue")
    momentum: float = setting(0.999, "of the slow copy, whose rows the candidates and the queue are")


@dataclass(frozen=True)
class MiningConfig:
    """Hard negatives found anew by the model as it is (ANCE: Xiong 2020, arXiv 2007.00808); see `docs/negatives.md`."""

    every: int | None = setting(None, "steps between two minings of hard negatives by the model as it is (none: never)")
    count: int = setting(1, "of mining: hard negatives for each pair")
    depth: int = setting(50, "of mining: how deep the search looks")
    skip_top: int = setting(0, "of mining: first ranks passed over")
    below_positive: float | None = setting(0.95, "of mining: dropped above this share of the positive's score (none: off)")

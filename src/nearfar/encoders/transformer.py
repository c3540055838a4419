"""A transformer encoder: any Hugging Face encoder or decoder, its token rows pooled to one row a text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.func import functional_call

from nearfar.encoders import folder as disk
from nearfar.encoders.dense import Dense, save_dense
from nearfar.encoders.lora import plain_tensors, save_adapter
from nearfar.encoders.packed import LONGEST_PACKED, BertPlan, plan_of, run_packed
from nearfar.encoders.pooling import POOLING_NAMES, PoolingMode, pool, pool_packed
from nearfar.encoders.precision import Copies, Precision, compute_dtype
from nearfar.encoders.tokens import NO_PROMPTS, Prompts, Tokens, tokenize
from nearfar.errors import BadConfig, BadInput
from nearfar.files import atomic_folder
from nearfar.types import Role

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformerEncoder(nn.Module):
    """Texts to rows by a transformer: token rows pooled to one, dense layers on it if there are any, cut to the first dimensions if so
    told (Matryoshka: Kusupati 2022), then unit length unless told otherwise.

    Texts are padded on the right, whatever side the tokenizer prefers: the model sees a mask, so that the padding changes
    nothing, and every token keeps the position it has alone. A batch of equal lengths carries no mask at all. A text without
    any token (possible where the model adds no special tokens) is pooled to the zero row.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: PoolingMode = "mean",
        normalize: bool = True,
        prompts: Prompts = NO_PROMPTS,
        max_length: int | None = None,
        lowercase: bool = False,
        heads: Sequence[Dense] = (),
        truncate_dim: int | None = None,
    ) -> None:
        """Own the model and the tokenizer; `max_length` (tokens, special ones included) is at most what the model can hold.

        `heads` are dense layers on the pooled row, `truncate_dim` is how many dimensions are kept (None: all; more than there are: all).
        Raises `BadConfig` where max_length or truncate_dim is impossible or the pooling unknown, `BadInput` where the widths of the heads
        do not follow from each other, where the tokenizer has no fast
        (`tokenizers`) form or the model is an encoder with a decoder.
        """
        super().__init__()
        if pooling not in POOLING_NAMES:
            raise BadConfig(f"pooling={pooling!r}: a transformer is pooled by {', '.join(POOLING_NAMES)}. Use one of them.")
        if truncate_dim is not None and truncate_dim < 1:
            raise BadConfig(f"truncate_dim={truncate_dim}: a row keeps at least one dimension. Use 1 or more, or leave it out.")
        if model.config.is_encoder_decoder:
            raise BadInput(
                f"model type {model.config.model_type!r} is an encoder with a decoder, which gives no token rows of a text. "
                "Choose an encoder or a decoder alone."
            )
        widths = [int(model.config.hidden_size), *(head.out_features for head in heads)]
        for head, width in zip(heads, widths, strict=False):
            if head.in_features != width:
                raise BadInput(
                    f"a dense layer takes rows of {head.in_features} dimensions, and the rows before it have {width}. Give layers that "
                    "belong to this model."
                )
        self.model, self.hf_tokenizer = model, tokenizer
        self.heads = nn.ModuleList(heads)
        self.truncate_dim = truncate_dim if truncate_dim is None or truncate_dim < widths[-1] else None
        self._width = widths[-1]
        self.pooling: PoolingMode = pooling
        self.normalize, self.prompts = normalize, prompts
        self.max_length = length_of(max_length, tokenizer, model)
        tokenizer.model_max_length = self.max_length  # what save() writes, and what sentence-transformers then cuts to
        self.tokenizer = backend_of(tokenizer, self.max_length, lowercase)
        self._pad = int(tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
        takes = inspect.signature(model.forward).parameters
        self._zero_types = "token_type_ids" in takes and "token_type_ids" in tokenizer.model_input_names
        self._options = {"use_cache": False} if "use_cache" in takes else {}
        self.copies: Copies | None = None
        """Weights of a lower precision to run with, kept up to date by whoever put them here."""

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return self.truncate_dim or self._width

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        return self.model.device

    def prepare(self, items: Sequence[str], role: Role = "document") -> Tokens:
        """Tokens of texts, with the role's prompt before and the model's special tokens around. `BadInput` where not text."""
        return tokenize(self.tokenizer, items, prompt=self.prompts.of(role), special=True)

    def forward(self, inputs: Tokens) -> Float[Tensor, "b d"]:
        """Rows of prepared texts, in their order; padded to the longest of them, so give texts of like length together."""
        rows = self.rows(inputs)
        return F.normalize(rows, dim=-1) if self.normalize else rows

    def rows(self, inputs: Tokens) -> Float[Tensor, "b d"]:
        """The rows before normalization: pooled, through the dense layers, cut."""
        if len(inputs) == 0:
            return torch.zeros(0, self.dim, device=self.device)
        rows = self.pooled(inputs)
        for head in self.heads:
            rows = head(rows)
        return rows[:, : self.truncate_dim]

    def pooled(self, inputs: Tokens) -> Float[Tensor, "b w"]:
        """The pooled rows, as wide as the model."""
        if len(inputs) == 0:
            return torch.zeros(0, int(self.model.config.hidden_size), device=self.device)
        plan = plan_of(self.model) if self.device.type == "cpu" and len(inputs.ids) else None
        if plan is not None and int(inputs.lengths.max()) <= LONGEST_PACKED:
            return self._pooled_packed(plan, inputs)
        ids, mask = pad(inputs, self._pad)
        tokens = torch.from_numpy(ids).to(self.device)
        seen = None if mask is None else torch.from_numpy(mask).to(self.device)
        types = {"token_type_ids": torch.zeros_like(tokens)} if self._zero_types else {}
        given = {"input_ids": tokens, "attention_mask": None if seen is None else seen.long(), **types, **self._options}
        found = self.model(**given) if self.copies is None else functional_call(self.model, self.copies.tensors, kwargs=given)
        lengths = torch.from_numpy(inputs.lengths).to(self.device)
        rows = pool(found.last_hidden_state.float(), lengths, seen, self.pooling)
        return rows if int(inputs.lengths.min()) else rows * (lengths > 0).to(rows)[:, None]

    def _pooled_packed(self, plan: BertPlan, inputs: Tokens) -> Float[Tensor, "b d"]:
        lengths = inputs.lengths
        order = np.argsort(-lengths, kind="stable") if (np.diff(lengths) > 0).any() else None
        sorted_inputs = inputs if order is None else inputs.select(order)
        weights = dict(self.model.named_parameters()) | ({} if self.copies is None else self.copies.tensors)
        hidden = run_packed(plan, weights, sorted_inputs, is_training=self.model.training).float()
        rows = pool_packed(hidden, sorted_inputs, self.pooling)
        return rows if order is None else rows[torch.from_numpy(np.argsort(order))]

    @property
    def is_packed(self) -> bool:
        """Whether texts run packed (up to `LONGEST_PACKED` tokens), without padding."""
        return self.device.type == "cpu" and plan_of(self.model) is not None

    @contextmanager
    def computing(self, precision: Precision, *, is_training: bool = False) -> Iterator[None]:
        """Inside, the model runs in this precision; rows come out in float32 all the same. For training, call `copies.refresh()` after each step."""
        before, dtype = self.copies, compute_dtype(precision, self.device)
        own = next(self.model.parameters()).dtype
        # packed, tokens are looked up in float32: the gradients of common tokens are sums of hundreds
        apart = "embeddings." if self.is_packed else None
        self.copies = None if dtype == own else Copies(self.model, dtype, is_training=is_training, apart=apart)
        try:
            yield
        finally:
            self.copies = before

    def save(self, folder: Path) -> None:
        """Write a folder (whole or not at all) that `load_encoder` and sentence-transformers load to the same vectors.

        Where the model is trained through adapters (LoRA) they are merged into the weights, and kept apart in `adapter/` besides.
        A cut row is unit here; sentence-transformers makes it so with `normalize_embeddings=True`.
        """
        with atomic_folder(folder) as target:
            disk.write_modules(target, self.write_parts(target))
            disk.write_settings(target, self.prompts, normalize=self.normalize, truncate_dim=self.truncate_dim)
            save_adapter(self.model, target / "adapter")

    def write_parts(self, folder: Path, prefix: str = "") -> list[disk.Part]:
        """Write weights, tokenizer, pooling and dense layers below `folder`, each under `prefix`; returns the parts in order."""
        from transformers.utils import logging

        names = ["Transformer", "Pooling", *("Dense" for _ in self.heads), *(["Normalize"] if self.normalize else [])]
        parts = [(name, disk.part_path(prefix, number, name)) for number, name in enumerate(names)]
        places = [folder / place for _, place in parts]
        logging.disable_progress_bar()
        self.model.save_pretrained(places[0], state_dict=plain_tensors(self.model))
        self.hf_tokenizer.save_pretrained(places[0])
        disk.write_length(places[0], self.max_length)
        disk.write_pooling(places[1], self.pooling, int(self.model.config.hidden_size))
        for head, place in zip(self.heads, places[2:], strict=False):
            assert isinstance(head, Dense)
            save_dense(head, place)
        if self.normalize:
            disk.write_normalize(places[-1])
        return parts

    def fingerprint(self) -> str:
        """`sha256:<hex>` of all that decides the vectors: weights (adapters merged, dense layers too), tokenizer with its truncation,
        pooling, prompts, cut, unit rows."""
        settings: dict[str, object] = {
            "kind": "transformer",
            "model": self.model.config.model_type,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "prompts": list(self.prompts),
        }
        if len(self.heads):
            settings["heads"] = [head.config() for head in self.heads if isinstance(head, Dense)]
        if self.truncate_dim is not None:
            settings["truncate_dim"] = self.truncate_dim
        tensors = plain_tensors(self.model) | {f"heads/{name}": tensor for name, tensor in self.heads.state_dict().items()}
        return disk.fingerprint_of(tensors, self.tokenizer.to_str(), settings)


def pad(tokens: Tokens, filler: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(ids [b, longest] int64, which are real [b, longest] bool), filled on the right; no mask where all lengths are equal.

    A text without tokens gets one filler marked real, since attention over nothing is not a number; its row is to be dropped.
    """
    lengths = tokens.lengths
    width = max(int(lengths.max()), 1)
    if int(lengths.min()) == width:
        return tokens.ids.reshape(len(tokens), width).astype(np.int64), None
    real = np.arange(width) < lengths[:, None]
    ids = np.full((len(tokens), width), filler, np.int64)
    ids[real] = tokens.ids
    real[:, 0] = True
    return ids, real


def length_of(asked: int | None, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """Tokens a text is cut to: as asked, else as the tokenizer says, never more than the model holds. Raises `BadConfig` for a length it cannot hold."""
    holds = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    # RoBERTa, XLM-R and MPNet count positions from after the filler's: their table holds that many texts' tokens less
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            holds = min(holds, part.num_embeddings - part.padding_idx - 1)
    if asked is not None and not 3 <= asked <= holds:
        raise BadConfig(f"max_length={asked}: this model holds from 3 to {holds} tokens a text. Use a number between them.")
    return asked if asked is not None else min(int(tokenizer.model_max_length), int(holds))


def backend_of(tokenizer: PreTrainedTokenizerBase, max_length: int, lowercase: bool) -> Tokenizer:
    """A copy of the fast tokenizer, unpadded, cut to `max_length`; lowercasing is put before whatever it normalizes itself."""
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadInput(
            f"the tokenizer {type(tokenizer).__name__} has no fast form (tokenizer.json). Save one: "
            "AutoTokenizer.from_pretrained(NAME, use_fast=True).save_pretrained(FOLDER)."
        )
    if lowercase:
        kept = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *kept])
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.enable_truncation(max_length, direction=tokenizer.truncation_side)
    return copy

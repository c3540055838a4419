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

from nearfar.encoders.folder import Layout, PoolingMode, fingerprint_of, write_layout
from nearfar.encoders.packed import BertPlan, plan_of, run_packed
from nearfar.encoders.precision import Copies, Precision, compute_dtype
from nearfar.encoders.tokens import NO_PROMPTS, Prompts, Tokens, tokenize
from nearfar.errors import BadConfig, BadInput
from nearfar.files import atomic_folder
from nearfar.types import Role

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformerEncoder(nn.Module):
    """Texts to rows by a transformer: token rows pooled (mean, first or last token), then unit length unless told otherwise.

    Texts are padded on the right, whatever side the tokenizer prefers: the model sees a mask, so that the padding changes
    nothing, and every token keeps the position it has alone. A batch of equal lengths carries no mask at all. A text without
    any token (possible where the model adds no special tokens) is the zero row.
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
    ) -> None:
        """Own the model and the tokenizer; `max_length` (tokens, special ones included) is at most what the model can hold.

        Raises `BadConfig` where max_length is impossible or the pooling unknown, `BadInput` where the tokenizer has no fast
        (`tokenizers`) form or the model is an encoder with a decoder.
        """
        super().__init__()
        if pooling not in ("mean", "cls", "last"):
            raise BadConfig(f"pooling={pooling!r}: a transformer is pooled by 'mean', 'cls' or 'last'. Use one of them.")
        if model.config.is_encoder_decoder:
            raise BadInput(
                f"model type {model.config.model_type!r} is an encoder with a decoder, which gives no token rows of a text. "
                "Choose an encoder or a decoder alone."
            )
        self.model, self.hf_tokenizer = model, tokenizer
        self.pooling: PoolingMode = pooling
        self.normalize, self.prompts = normalize, prompts
        self.max_length = _length(max_length, tokenizer, model)
        tokenizer.model_max_length = self.max_length  # what save() writes, and what sentence-transformers then cuts to
        self.tokenizer = _backend(tokenizer, self.max_length, lowercase)
        self._pad = int(tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
        takes = inspect.signature(model.forward).parameters
        self._zero_types = "token_type_ids" in takes and "token_type_ids" in tokenizer.model_input_names
        self._options = {"use_cache": False} if "use_cache" in takes else {}
        self._plan = plan_of(model)
        self.copies: Copies | None = None
        """Weights of a lower precision to run with, kept up to date by whoever put them here."""

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        return self.model.device

    def prepare(self, items: Sequence[str], role: Role = "document") -> Tokens:
        """Tokens of texts, with the role's prompt before and the model's special tokens around. `BadInput` where not text."""
        return tokenize(self.tokenizer, items, prompt=self.prompts.of(role), special=True)

    def forward(self, inputs: Tokens) -> Float[Tensor, "b d"]:
        """Rows of prepared texts, in their order; padded to the longest of them, so give texts of like length together."""
        rows = self.pooled(inputs)
        return F.normalize(rows, dim=-1) if self.normalize else rows

    def pooled(self, inputs: Tokens) -> Float[Tensor, "b d"]:
        """The pooled rows before normalization."""
        if len(inputs) == 0:
            return torch.zeros(0, self.dim, device=self.device)
        if self._plan is not None and self.device.type == "cpu" and len(inputs.ids):
            return self._pooled_packed(self._plan, inputs)
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
        weights = dict(self.model.named_parameters()) if self.copies is None else self.copies.tensors
        hidden = run_packed(plan, weights, sorted_inputs, is_training=self.model.training).float()
        rows = pool_packed(hidden, sorted_inputs, self.pooling)
        return rows if order is None else rows[torch.from_numpy(np.argsort(order))]

    @contextmanager
    def computing(self, precision: Precision, *, is_training: bool = False) -> Iterator[None]:
        """Inside, the model runs in this precision; rows come out in float32 all the same. For training, call `copies.refresh()` after each step."""
        before, dtype = self.copies, compute_dtype(precision, self.device)
        own = next(self.model.parameters()).dtype
        self.copies = None if dtype == own else Copies(self.model, dtype, is_training=is_training)
        try:
            yield
        finally:
            self.copies = before

    def save(self, folder: Path) -> None:
        """Write a folder (whole or not at all) that `load_encoder` and sentence-transformers load to the same vectors."""
        layout = Layout("transformer", self.pooling, self.normalize, self.prompts, self.max_length)
        from transformers.utils import logging

        logging.disable_progress_bar()
        with atomic_folder(folder) as target:
            self.model.save_pretrained(target)
            self.hf_tokenizer.save_pretrained(target)
            write_layout(target, layout, dim=self.dim)

    def fingerprint(self) -> str:
        """`sha256:<hex>` of all that decides the vectors: weights, tokenizer with its truncation, pooling, prompts, unit rows."""
        settings = {
            "kind": "transformer",
            "model": self.model.config.model_type,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "prompts": list(self.prompts),
        }
        return fingerprint_of(self.model.state_dict(), self.tokenizer.to_str(), settings)


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


def pool_packed(hidden: Float[Tensor, "t d"], tokens: Tokens, pooling: PoolingMode) -> Float[Tensor, "b d"]:
    """As `pool`, from the token rows of all texts end to end; a text without tokens has the zero row."""
    lengths = torch.from_numpy(tokens.lengths)
    if pooling == "mean":
        text = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
        return hidden.new_zeros(len(tokens), hidden.shape[1]).index_add(0, text, hidden) / lengths.clamp(min=1)[:, None]
    at = torch.from_numpy(tokens.offsets)
    rows = hidden[(at[:-1] if pooling == "cls" else at[1:] - 1).clamp(0, len(hidden) - 1)]
    return rows * (lengths > 0).to(rows)[:, None]


def pool(hidden: Float[Tensor, "b w d"], lengths: Tensor, real: Tensor | None, pooling: PoolingMode) -> Float[Tensor, "b d"]:
    """One row a text from its token rows, filled on the right: their mean, the first token's, or the last real token's."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), (lengths - 1).clamp(min=0)]
    if real is None:
        return hidden.mean(dim=1)
    weights = real.to(hidden) / real.sum(dim=1, keepdim=True)
    return torch.bmm(weights[:, None, :], hidden)[:, 0]


def _length(asked: int | None, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    holds = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    if asked is not None and not 3 <= asked <= holds:
        raise BadConfig(f"max_length={asked}: this model holds from 3 to {holds} tokens a text. Use a number between them.")
    return asked if asked is not None else min(int(tokenizer.model_max_length), int(holds))


def _backend(tokenizer: PreTrainedTokenizerBase, max_length: int, lowercase: bool) -> Tokenizer:
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

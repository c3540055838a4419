"""A static encoder: a text is the mean of its tokens' rows in one table. No attention, no order, thousands of texts a second.

The bag-of-tokens form of sentence-transformers' `StaticEmbedding` and of Model2Vec (Tulkens and van Dongen 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nearfar.encoders import folder as disk
from nearfar.encoders.tokens import NO_PROMPTS, Prompts, Tokens, refuse_pictures, tokenize
from nearfar.encoders.words import word_tokenizer
from nearfar.errors import BadConfig, BadInput
from nearfar.files import atomic_folder
from nearfar.types import Role

if TYPE_CHECKING:
    from jaxtyping import Float


class StaticEncoder(nn.Module):
    """Texts to rows by a token table: mean over the tokens' rows, then (unless told otherwise) unit length.

    `.weight` [vocabulary, d] float32 is the only parameter. Its gradient is sparse: one entry per distinct token of the batch,
    coalesced, so that an optimizer can touch the used rows alone. A text without tokens (or with only unknown ones, whose
    rows start at zero) is the zero row, as in sentence-transformers: it is equally far from everything.
    """

    def __init__(
        self,
        weight: Float[Tensor, "v d"],
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        prompts: Prompts = NO_PROMPTS,
        normalize: bool = True,
    ) -> None:
        """Own a copy of the tokenizer, without padding, truncating to `max_length` tokens (None: never).

        Raises `BadInput` where the tokenizer can give an id for which the table has no row, `BadConfig` on max_length < 1.
        """
        super().__init__()
        needed = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if weight.ndim != 2 or weight.shape[0] < needed:
            raise BadInput(
                f"token table of shape {tuple(weight.shape)}: the tokenizer has {needed:,} token ids. "
                "Table and tokenizer must come from one model."
            )
        if max_length is not None and max_length < 1:
            raise BadConfig(f"max_length={max_length}: a text needs at least one token. Use 1 or more, or leave it out.")
        self.weight = nn.Parameter(weight.detach().to(torch.float32).contiguous())
        self.max_length, self.prompts, self.normalize = max_length, prompts, normalize
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        if max_length is None:
            self.tokenizer.no_truncation()
        else:
            self.tokenizer.enable_truncation(max_length)
        self._words = word_tokenizer(self.tokenizer)

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the table is and the rows appear."""
        return self.weight.device

    def prepare(self, items: Sequence[str], role: Role = "document") -> Tokens:
        """Tokens of texts, without special tokens. Raises `BadInput` where an item is not text."""
        if self._words is not None and not isinstance(items, str):
            refuse_pictures(items)
            return self._words(items, self.prompts.of(role))
        return tokenize(self.tokenizer, items, prompt=self.prompts.of(role), special=False)

    def forward(self, inputs: Tokens) -> Float[Tensor, "b d"]:
        """Rows of prepared texts, in their order. O(tokens × d) both ways, never O(vocabulary × d)."""
        rows = token_means(self.weight, inputs)
        return F.normalize(rows, dim=-1) if self.normalize else rows

    def save(self, folder: Path) -> None:
        """Write a folder (whole or not at all) that `load_encoder` and sentence-transformers load to the same vectors."""
        with atomic_folder(folder) as target:
            disk.write_modules(target, self.write_parts(target))
            disk.write_settings(target, self.prompts, normalize=self.normalize)

    def write_parts(self, folder: Path, prefix: str = "") -> list[disk.Part]:
        """Write table and tokenizer below `folder`, each part under `prefix`; returns the parts in order."""
        names = ["StaticEmbedding", *(["Normalize"] if self.normalize else [])]
        parts = [(name, disk.part_path(prefix, number, name)) for number, name in enumerate(names)]
        first = folder / parts[0][1]
        first.mkdir(parents=True, exist_ok=True)
        save_file({"embedding.weight": self.weight.detach().cpu().contiguous()}, first / "model.safetensors")
        self.tokenizer.save(str(first / "tokenizer.json"))  # its truncation says max_length, to us and to others
        if self.normalize:
            disk.write_normalize(folder / parts[1][1])
        return parts

    def fingerprint(self) -> str:
        """`sha256:<hex>` of all that decides the vectors: table, tokenizer with its truncation, prompts, normalization."""
        settings = {"kind": "static", "normalize": self.normalize, "prompts": list(self.prompts)}
        return disk.fingerprint_of({"weight": self.weight}, self.tokenizer.to_str(), settings)


def token_means(weight: Float[Tensor, "v d"], tokens: Tokens) -> Float[Tensor, "b d"]:
    """Mean of the rows of `weight` of each text's tokens; zero for a text without tokens.

    The gradient on `weight` is a coalesced sparse tensor: each distinct token of the batch once, in ascending order.
    """
    return _TokenMeans.apply(weight, tokens.ids, tokens.offsets)  # pyright: ignore[reportReturnType]


class _TokenMeans(torch.autograd.Function):
    """`embedding_bag(mode="mean")` whose backward is another embedding bag: each token sums the texts that hold it.

    Measured on 2,048 texts of 60 tokens at d = 256, 2 cores: 8 ms for both directions, where an embedding of the distinct rows
    followed by torch's own embedding bag takes 21 ms, and a sparse matrix product 20 ms.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: np.ndarray, offsets: np.ndarray) -> Tensor:
        ctx.ids, ctx.offsets, ctx.vocabulary = ids, offsets, weight.shape[0]
        places = torch.from_numpy(offsets).to(weight.device)
        tokens = torch.from_numpy(ids).to(weight.device, places.dtype)
        return F.embedding_bag(tokens, weight, places, mode="mean", include_last_offset=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lengths = np.diff(ctx.offsets)
        used, texts, offsets = texts_of_tokens(ctx.ids, lengths, ctx.vocabulary)
        grad = grad / torch.from_numpy(np.maximum(lengths, 1)).to(grad)[:, None]
        places = torch.from_numpy(offsets).to(grad.device)
        rows = torch.from_numpy(texts).to(grad.device, places.dtype)
        sums = F.embedding_bag(rows, grad, places, mode="sum", include_last_offset=True)  # [distinct tokens, d]
        where = torch.from_numpy(used).to(grad.device)[None]
        shape = (ctx.vocabulary, grad.shape[1])
        return torch.sparse_coo_tensor(where, sums, shape, is_coalesced=True, check_invariants=False), None, None


def texts_of_tokens(ids: np.ndarray, lengths: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn "tokens of each text" around: (distinct tokens ascending [u], texts that hold each, end to end [t], offsets [u + 1]).

    A token twice in a text lists the text twice. Counting over the vocabulary instead of sorting ids; the sort that remains is
    a radix sort of two-byte numbers for up to 65,536 distinct tokens. O(tokens + vocabulary).
    """
    counts = np.bincount(ids, minlength=vocabulary)
    used = np.flatnonzero(counts)
    offsets = np.zeros(len(used) + 1, np.int64)
    np.cumsum(counts[used], out=offsets[1:])
    number = np.zeros(vocabulary, np.uint16 if len(used) <= 1 << 16 else np.int64)
    number[used] = np.arange(len(used))
    order = np.argsort(number[ids], kind="stable")
    texts = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return used, texts[order], offsets

"""A static encoder made from any transformer: every vocabulary entry passed through it, reduced by PCA, weighted by rarity.

The recipe of Model2Vec (Tulkens and van Dongen 2024): smooth inverse frequency (Arora 2017, eq. 3) with frequencies that follow
Zipf's law over the order of the vocabulary, since tokenizers list common tokens first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.tokens import Tokens
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.errors import BadConfig
from nearfar.types import Progress, silent

SIF = 1e-4
"""The smoothing constant a of a / (a + p): Model2Vec's default."""
_TOKENS_AT_ONCE = 1024


def distill(
    encoder: TransformerEncoder, *, dim: int = 256, max_length: int | None = None, progress: Progress = silent
) -> StaticEncoder:
    """A token table [vocabulary, dim] over the encoder's own tokenizer; `dim` above the encoder's width is refused.

    Each token is encoded alone between the model's special tokens, pooled as the model pools. Padding and special tokens get the
    zero row. Deterministic. One pass over the vocabulary: about 30,000 texts of three tokens. Raises `BadConfig`.
    """
    tokenizer = encoder.tokenizer
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if not 1 <= dim <= min(encoder.dim, size):
        raise BadConfig(f"dim={dim}: a table made from this encoder has from 1 to {min(encoder.dim, size)} dimensions.")
    before, after = _frame(encoder)
    rows = np.empty((size, encoder.dim), dtype=np.float32)
    was = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            for start in range(0, size, _TOKENS_AT_ONCE):
                ids = range(start, min(start + _TOKENS_AT_ONCE, size))
                rows[start : ids.stop] = encoder.rows(Tokens.of([[*before, i, *after] for i in ids])).float().cpu().numpy()
                progress("distill", ids.stop, size)
    finally:
        encoder.train(was)
    table = reduce_rows(torch.from_numpy(rows), dim) * rarity(size)[:, None]
    for special in _special(encoder):
        table[special] = 0
    # entries of unit size, as in a table trained from nothing: one learning rate then suits tables from all encoders
    table /= table.double().pow(2).mean().sqrt().clamp(min=1e-12)
    return StaticEncoder(table, tokenizer, max_length=max_length)


def reduce_rows(rows: Tensor, dim: int) -> Tensor:
    """Principal components of rows [n, d] -> [n, dim] float32, signs fixed so that every machine gives the same."""
    centred = rows.double() - rows.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    chosen = vectors.flip(1)[:, :dim]
    largest = chosen.abs().argmax(dim=0)
    chosen = chosen * torch.sign(chosen[largest, torch.arange(dim)])
    return (centred @ chosen).float()


def rarity(size: int, *, sif: float = SIF) -> Tensor:
    """Weights a / (a + p) [size] for tokens in order of falling frequency, p after Zipf: token of rank r has p ~ 1 / r."""
    inverse = 1.0 / torch.arange(1, size + 1, dtype=torch.float64)
    return (sif / (sif + inverse / inverse.sum())).float()


def _frame(encoder: TransformerEncoder) -> tuple[list[int], list[int]]:
    """The special tokens that the model puts before and after a text."""
    empty = encoder.tokenizer.encode("", add_special_tokens=True).ids
    one = encoder.tokenizer.encode("a", add_special_tokens=True).ids
    common = 0
    while common < len(empty) and empty[common] == one[common]:
        common += 1
    return empty[:common], empty[common:]


def _special(encoder: TransformerEncoder) -> list[int]:
    added = encoder.tokenizer.get_added_tokens_decoder()
    return [number for number, token in added.items() if token.special]

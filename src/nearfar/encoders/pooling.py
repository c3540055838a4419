"""Pooling: how the token rows of a text become one row.

The six ways of sentence-transformers (cls, mean and max: Reimers and Gurevych 2019, section 3; weightedmean: Muennighoff 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from nearfar.encoders.tokens import Tokens

PoolingMode = Literal["mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean"]
"""The mean of the rows, the first row, the last row, the largest number of each dimension, the sum over the root of the count, or a
mean in which token i (from 1) weighs i."""

POOLING_NAMES: dict[PoolingMode, str] = {
    "mean": "mean",
    "cls": "cls",
    "last": "lasttoken",
    "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean",
}
"""Our name -> sentence-transformers' name."""


def pool(hidden: Float[Tensor, "b w d"], lengths: Tensor, real: Tensor | None, pooling: PoolingMode) -> Float[Tensor, "b d"]:
    """One row a text from its token rows, filled on the right; `real` [b, w] says which are no filler (None: all are)."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        # not len(hidden): a graph made of this would hold for one batch size only
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), (lengths - 1).clamp(min=0)]
    if pooling == "max":
        return (hidden if real is None else hidden.masked_fill(~real[:, :, None], -torch.inf)).amax(dim=1)
    if pooling == "mean" and real is None:
        return hidden.mean(dim=1)
    seen = torch.ones(hidden.shape[:2], device=hidden.device) if real is None else real.float()
    if pooling == "weightedmean":
        seen = seen * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    total = seen.sum(dim=1, keepdim=True)
    weights = (seen / (total.sqrt() if pooling == "mean_sqrt_len_tokens" else total)).to(hidden)
    return torch.bmm(weights[:, None, :], hidden)[:, 0]


def pool_packed(hidden: Float[Tensor, "t d"], tokens: Tokens, pooling: PoolingMode) -> Float[Tensor, "b d"]:
    """As `pool`, from the token rows of all texts end to end; a text without tokens has the zero row."""
    lengths = torch.from_numpy(tokens.lengths)
    if pooling in ("cls", "last"):
        at = torch.from_numpy(tokens.offsets)
        rows = hidden[(at[:-1] if pooling == "cls" else at[1:] - 1).clamp(0, len(hidden) - 1)]
        return rows * (lengths > 0).to(rows)[:, None]
    if pooling == "max":
        return torch.segment_reduce(hidden, "max", lengths=lengths, initial=-torch.inf).where((lengths > 0)[:, None], 0.0)
    weights = hidden.new_ones(len(hidden))
    if pooling == "weightedmean":
        weights = torch.from_numpy(np.arange(1, len(hidden) + 1) - np.repeat(tokens.offsets[:-1], tokens.lengths)).to(hidden)
    text = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    total = hidden.new_zeros(len(tokens)).index_add(0, text, weights)
    share = weights / (total.sqrt() if pooling == "mean_sqrt_len_tokens" else total)[text]
    return hidden.new_zeros(len(tokens), hidden.shape[1]).index_add(0, text, hidden * share[:, None])

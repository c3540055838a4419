"""Items to rows: prepared once, encoded in batches of like length, given back in the order they came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from nearfar.encoders import TransformerEncoder, TwoTowerEncoder, computing, is_static
from nearfar.encoders.at_rest import encode_parts
from nearfar.encoders.tokens import cut_padded, lengths_of
from nearfar.errors import BadConfig
from nearfar.similarity.products import has_tiles
from nearfar.types import Encoder, Inputs, Progress, Role, silent

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfar.encoders.precision import Precision

BATCH_TOKENS = 16_384
"""Tokens (padding included) encoded at once unless told otherwise."""
CACHED_TOKENS, TILED_TOKENS = 2_048, 4_096
"""The same for a transformer on a CPU, so that its widest rows stay in the cache; and on one that multiplies by tiles (AMX), where less per batch is worth more."""
_ITEMS_AT_ONCE = 8_192


def embed(
    encoder: Encoder,
    items: Sequence[str],
    *,
    role: Role = "document",
    batch_tokens: int | None = None,
    precision: Precision | None = None,
    progress: Progress = silent,
    stage: str = "encode",
) -> Float[np.ndarray, "n d"]:
    """Rows [n, d] float32 of `items`, in their order; equal items are encoded once.

    `batch_tokens` are encoded at once (default: 16,384; by a transformer on a CPU 2,048, or 4,096 with AMX). `precision` is what a transformer multiplies in: "float32", "bfloat16", or "auto" (bfloat16 where the device multiplies it itself); None leaves it as it is.
    Texts are sorted by length inside, so that little is padded; no gradient is kept, dropout is off while it runs, and the
    encoder's training mode is as before afterwards. Raises `BadConfig` for batch_tokens < 1, `BadInput` where an item is not text.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise BadConfig(f"batch_tokens={batch_tokens}: a batch holds at least one token. Use 1 or more.")
    if isinstance(items, str) or not all(isinstance(item, str) for item in items):
        encoder.prepare(items, role)  # says which item is not text
    number: dict[str, int] = {}
    places = np.fromiter((number.setdefault(item, len(number)) for item in items), np.int64, len(items))
    distinct = list(number)
    rows = np.empty((len(distinct), encoder.dim), dtype=np.float32)
    progress(stage, 0, len(distinct))
    done = 0

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        progress(stage, done, len(distinct))

    with nullcontext() if precision is None else computing(encoder, precision):
        # the longest texts first: whatever does not fit in memory shows at once, and the time left is never too hopeful
        order = sorted(range(len(distinct)), key=lambda i: -len(distinct[i]))
        for start in range(0, len(order), _ITEMS_AT_ONCE):
            chosen = np.array(order[start : start + _ITEMS_AT_ONCE])
            inputs = encoder.prepare([distinct[i] for i in chosen], role)
            rows[chosen] = embed_inputs(encoder, inputs, batch_tokens=batch_tokens, count=count)
    return rows if len(distinct) == len(items) else rows[places]


def embed_inputs(
    encoder: Encoder, inputs: Inputs, *, batch_tokens: int | None = None, count: Callable[[int], None] | None = None
) -> Float[np.ndarray, "n d"]:
    """Rows [n, d] float32 of prepared items, in their order: without gradient or dropout, the encoder's training mode afterwards as before.

    `batch_tokens` as for `embed`; `count` hears of every batch how many items it held.
    """
    if batch_tokens is None:
        at_cpu = _has_transformer(encoder) and encoder.device.type == "cpu"
        batch_tokens = BATCH_TOKENS if not at_cpu else TILED_TOKENS if has_tiles() else CACHED_TOKENS
    return encode_parts(encoder, inputs, cut_padded(lengths_of(inputs), batch_tokens), encoder.dim, count=count)


def _has_transformer(encoder: Encoder) -> bool:
    return isinstance(encoder, (TransformerEncoder, TwoTowerEncoder)) and not is_static(encoder)

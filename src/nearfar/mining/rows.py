"""Texts to rows through the cache: only what was never encoded is encoded, and every finished block is kept at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from nearfar.embedding import embed
from nearfar.encoders import is_static
from nearfar.encoders.precision import Precision, compute_dtype
from nearfar.mining.cache import KEY_BYTES, Cache, digest_of, text_keys
from nearfar.mining.material import Material
from nearfar.types import Encoder, Progress, Role, silent

BLOCK, TABLE_BLOCK = 2_048, 32_768
"""Texts of one kept block, by a transformer and by a table: at most so much work is lost by a kill."""


def precision_of(encoder: Encoder, precision: Precision) -> Precision:
    """What the encoder computes in: one of "float32" and "bfloat16"."""
    if _is_table(encoder):
        return "float32"
    return "bfloat16" if compute_dtype(precision, encoder.device) == torch.bfloat16 else "float32"


def cached_rows(
    encoder: Encoder,
    texts: Sequence[str],
    role: Role,
    cache: Cache,
    *,
    precision: Precision = "auto",
    progress: Progress = silent,
    stage: str = "encode",
) -> Float[np.ndarray, "n d"]:
    """Rows [n, d] float32 of distinct `texts` in their order, from the cache where they are there. Longest texts first, block by block."""
    computed = precision_of(encoder, precision)
    if cache.folder is None:
        return embed(encoder, texts, role=role, precision=computed, progress=progress, stage=stage)
    shelf = f"rows-{digest_of(encoder.fingerprint(), role, computed)}"
    rows = np.empty((len(texts), encoder.dim), dtype=np.float32)
    keys = text_keys(texts)
    missing = np.ones(len(texts), dtype=bool)
    for own, kept in cache.blocks(shelf):
        here, there = match(keys, own)
        rows[here] = kept[there]
        missing[here] = False
    left = sorted(np.flatnonzero(missing).tolist(), key=lambda i: -len(texts[i]))
    done = len(texts) - len(left)
    progress(stage, done, len(texts))
    size = TABLE_BLOCK if _is_table(encoder) else BLOCK
    for start in range(0, len(left), size):
        chosen = left[start : start + size]
        counted = _counted(progress, done, len(texts))
        made = embed(encoder, [texts[i] for i in chosen], role=role, precision=computed, progress=counted, stage=stage)
        rows[chosen] = made
        cache.keep_block(shelf, keys[chosen], made)
        done += len(chosen)
    return rows


def _is_table(encoder: Encoder) -> bool:
    return isinstance(encoder, nn.Module) and is_static(encoder)


def _counted(progress: Progress, before: int, whole: int) -> Progress:
    """The progress of a part as that of the whole."""

    def count(stage: str, done: int, total: int, **facts: float | str) -> None:  # noqa: ARG001 - what a progress is called with
        progress(stage, before + done, whole, **facts)

    return count


def match(wanted: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in `wanted` [n, 16] and in `kept` [m, 16] of equal keys, both of distinct rows."""
    pad = np.dtype((np.void, KEY_BYTES))
    a, b = (np.ascontiguousarray(keys).view(pad).reshape(-1) for keys in (wanted, kept))
    _, here, there = np.intersect1d(a, b, return_indices=True)
    return here, there


def similarities(
    queries: Float[np.ndarray, "q d"],
    documents: Float[np.ndarray, "n d"],
    rows: Int[np.ndarray, "b k"] | Int[np.ndarray, " b"],
    columns: Int[np.ndarray, "b k"] | Int[np.ndarray, " b"],
) -> np.ndarray:
    """Dot products of these queries with these documents, float32, shaped as `columns`; each number depends on its two rows alone.

    Every score that a rule sees comes from here, whichever search found the document.
    """
    shape = columns.shape
    rows, columns = np.broadcast_to(rows, shape).reshape(-1), columns.reshape(-1)
    found = np.empty(len(columns), dtype=np.float32)
    step = max(1, (16 << 20) // max(1, 4 * queries.shape[1]))
    for start in range(0, len(columns), step):
        part = slice(start, start + step)
        found[part] = np.einsum("nd,nd->n", queries[rows[part]], documents[columns[part]])
    return found.reshape(shape)


class Vectors:
    """The vectors of a mining, made when they are first needed: a mining whose lists are in the cache needs none."""

    def __init__(self, encoder: Encoder, material: Material, cache: Cache, precision: Precision, progress: Progress) -> None:
        self._encoder, self._material, self._cache = encoder, material, cache
        self._precision: Precision = precision
        self._progress = progress
        self.name = encoder.fingerprint()
        self.identity = [self.name, precision_of(encoder, precision)]

    @cached_property
    def queries(self) -> np.ndarray:
        """[Q, d]."""
        return self._encode(self._material.queries, "queries")

    @cached_property
    def documents(self) -> np.ndarray:
        """[D, d]."""
        return self._encode(self._material.documents, "documents")

    @cached_property
    def candidates(self) -> np.ndarray:
        """[N, d]."""
        whole = len(self._material.candidates) == len(self._material.documents)
        return self.documents if whole else self.documents[self._material.candidates]

    def _encode(self, texts: Sequence[str], stage: str) -> np.ndarray:
        role: Role = "query" if stage == "queries" else "document"
        return cached_rows(
            self._encoder,
            texts,
            role,
            self._cache,
            precision=self._precision,
            progress=self._progress,
            stage=f"encode {stage}",
        )

"""How two modalities lie in one space: the gap between their means, who is nearest to whom, and the rank of the first partner.

The gap is Liang, Zhang, Kwon, Yeung and Zou 2022 (arXiv 2203.02053, section 2): the difference of the two modalities' means of unit rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nearfar.errors import BadInput, Mismatch

_NUMBERS_AT_ONCE = 1 << 22
"""Similarities held at once: 32 MB."""


class ModalityGap(NamedTuple):
    """The distance between the means of two modalities' unit rows, 0..2, and what chance alone would leave of it."""

    distance: float
    by_chance: float
    """The root of the expected squared distance of the two means if both were drawn from one distribution of this spread."""


class Nearness(NamedTuple):
    """Of each row of one modality [n], float64: how near its nearest partner is, and its nearest stranger of either modality."""

    partner: Float[np.ndarray, " n"]
    """The greatest similarity to a partner in the other modality."""
    own: Float[np.ndarray, " n"]
    """The greatest similarity to a row of its own modality that shares no partner with it; minus infinity where there is none."""
    other: Float[np.ndarray, " n"]
    """The greatest similarity to a row of the other modality that is no partner; minus infinity where there is none."""


def modality_gap(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> ModalityGap:
    """The gap between modality `a` and modality `b`: the length of mean(a) - mean(b), rows made unit first (rows of zeros stay).

    Raises `BadInput` where a side has no row, `Mismatch` for two widths.
    """
    left, right = _unit(a, "a"), _unit(b, "b")
    _same_width(left, right)
    spread = sum(float(((rows - rows.mean(axis=0)) ** 2).sum()) for rows in (left, right)) / (len(left) + len(right))
    distance = float(np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)))
    return ModalityGap(distance, math.sqrt(spread * (1 / len(left) + 1 / len(right))))


def first_ranks(
    queries: Float[np.ndarray, "q d"], documents: Float[np.ndarray, "n d"], relevant: Sequence[Sequence[int]]
) -> Int[np.ndarray, " q"]:
    """The rank, from 1, of the first of each query's `relevant` rows among all documents; equal scores in order of ascending row.

    In float64, O(q n d), a few queries at a time. Raises `BadInput` where a query has no relevant row, `Mismatch` for two widths.
    """
    _same_width(queries, documents)
    if len(relevant) != len(queries):
        raise Mismatch(f"{len(queries):,} queries and {len(relevant):,} lists of relevant rows: there must be one for each.")
    columns = np.asarray(documents, dtype=np.float64).T
    numbers = np.arange(len(documents))
    found = np.zeros(len(queries), dtype=np.int64)
    for start, similarity in _slabs(queries, columns):
        for place, scores in enumerate(similarity, start):
            rows = np.asarray(relevant[place], dtype=np.int64)
            if not len(rows):
                raise BadInput(f"query {place}: it has no relevant document, so no rank. Leave such queries out first.")
            best = scores[rows].max()
            first = int(rows[scores[rows] == best].min())
            found[place] = 1 + int((scores > best).sum()) + int(((scores == best) & (numbers < first)).sum())
    return found


def nearness(rows: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"], partners: Sequence[Sequence[int]]) -> Nearness:
    """How near each of `rows` is to its partners, rows of `others` by number, and to strangers of both modalities, by dot product.

    Rows that share a partner are no strangers to each other (several pictures of one caption). Rows are compared as they are: unit rows
    give cosines. Raises as `first_ranks`.
    """
    _same_width(rows, others)
    if len(partners) != len(rows):
        raise Mismatch(f"{len(rows):,} rows and {len(partners):,} lists of partners: there must be one for each.")
    owners: dict[int, list[int]] = {}
    for row, mine in enumerate(partners):
        if not len(mine):
            raise BadInput(f"row {row}: it has no partner. Leave such rows out first.")
        for column in mine:
            owners.setdefault(int(column), []).append(row)
    left, right = np.asarray(rows, dtype=np.float64), np.asarray(others, dtype=np.float64)
    found = np.full((3, len(rows)), -np.inf)
    for start, similarity in _slabs(left, right.T):
        for place, scores in enumerate(similarity, start):
            mine = np.asarray(partners[place], dtype=np.int64)
            found[0, place] = scores[mine].max()
            scores[mine] = -np.inf
            found[2, place] = scores.max()
    for start, similarity in _slabs(left, left.T):
        for place, scores in enumerate(similarity, start):
            scores[[row for column in partners[place] for row in owners[int(column)]]] = -np.inf
            found[1, place] = scores.max()
    return Nearness(*found)


def _slabs(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The number of the first of a few rows, and their similarities to all columns [r, n]."""
    at_once = max(1, _NUMBERS_AT_ONCE // max(columns.shape[1], 1))
    for start in range(0, len(rows), at_once):
        yield start, np.asarray(rows[start : start + at_once], dtype=np.float64) @ columns


def _unit(rows: np.ndarray, name: str) -> np.ndarray:
    if not len(rows):
        raise BadInput(f"{name}: there is no row. A gap needs rows of both modalities.")
    found = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(lengths > 0, lengths, 1.0)


def _same_width(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise Mismatch(f"rows of {a.shape[1:]} and of {b.shape[1:]} numbers cannot be compared. Embed both with one model.")

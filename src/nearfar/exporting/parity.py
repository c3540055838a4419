"""Whether an export computes what its model computes: rows of the same texts, each alone and all in one padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfar.embedding import embed
from nearfar.errors import Unfaithful

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfar.types import Encoder, Role

TOLERANCE = 1e-4
"""Largest difference of any number that an export may show, for rows of length up to 1; for longer rows, times their length."""

Encode = Callable[[Sequence[str], "Role", int], "Float[np.ndarray, 'n d']"]
"""(texts, role, texts at once) -> rows."""

Rows = tuple["Float[np.ndarray, 'm d']", "Float[np.ndarray, 'm d']"]
"""What the model gives and what the export gives, for the same m = 2n readings of n texts."""


def both_rows(encoder: Encoder, encode: Encode, texts: Sequence[str]) -> Rows:
    """Rows of the model and of its export: every text alone as a query, then all together, padded, as documents."""
    wanted = np.concatenate([embed(encoder, texts, role="query"), embed(encoder, texts, role="document")])
    return wanted, np.concatenate([encode(texts, "query", 1), encode(texts, "document", len(texts))])


def check_equal(rows: Rows, what: str) -> float:
    """The largest absolute difference. Raises `Unfaithful` where it is above `TOLERANCE`, or a row is not finite."""
    wanted, found = rows
    if wanted.shape != found.shape:
        raise Unfaithful(
            f"{what}: rows of {found.shape[1]} numbers where the model gives {wanted.shape[1]}. Nothing was written."
        )
    # not a number is no agreement
    difference = float(np.abs(wanted - found).max()) if np.isfinite(found).all() else float("nan")
    allowed = TOLERANCE * max(1.0, float(np.linalg.norm(wanted, axis=1).max()))
    if not difference <= allowed:
        raise Unfaithful(
            f"{what}: its rows differ from the model's by up to {difference:.2g}, at most {allowed:.2g} is allowed. Nothing was "
            "written. Export it as a folder instead (--to sentence-transformers)."
        )
    return difference


def cosines(rows: Rows) -> Float[np.ndarray, " m"]:
    """Cosine of each pair of rows; 1 where both are zero, 0 where one is."""
    wanted, found = (part.astype(np.float64) for part in rows)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    both_zero = ~wanted.any(axis=1) & ~found.any(axis=1)
    dots = (wanted * found).sum(axis=1)
    return np.where(both_zero, 1.0, dots / np.maximum(lengths, 1e-30))

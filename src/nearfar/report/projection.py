"""Rows to the plane: the first two principal components, signs fixed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def project(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Coordinates [n, 2] of rows [n, d] along their two directions of greatest variance (Pearson 1901).

    The sign of a direction is that of its largest entry, so the same rows give the same picture. Missing directions are zero.
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64) if len(rows) else rows.astype(np.float64)
    found = np.zeros((len(rows), 2))
    if min(centred.shape) == 0:
        return found
    _, vectors = np.linalg.eigh(centred.T @ centred)
    for place, vector in enumerate(vectors.T[::-1][:2]):
        sign = np.sign(vector[np.abs(vector).argmax()]) or 1.0
        found[:, place] = centred @ (vector * sign)
    return found

"""Rows into clusters by k-means on the sphere (Dhillon 2001, "Concept decompositions"), small and repeatable."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity import slab_ranges, slab_rows

ROUNDS = 10
"""Times the centres move; beyond that few rows change sides."""
SAMPLE = 50_000
"""At most so many rows move the centres; all are then assigned."""


def cluster_count(rows: int) -> int:
    """How many clusters for so many rows: about the square root, so that there are as many clusters as rows in each; 1,024 at most."""
    return max(1, min(1024, round(rows**0.5)))


def find_centres(rows: Float[np.ndarray, "n d"], count: int, *, seed: int) -> Float[np.ndarray, "c d"]:
    """Unit centres of `count` clusters, from rows drawn by `seed`; a cluster that loses all its rows keeps its centre. Time O(rounds n c d)."""
    rng = np.random.default_rng([seed, len(rows), 11])
    chosen = np.sort(rng.permutation(len(rows))[:SAMPLE])
    sample = torch.from_numpy(rows[chosen])
    centres = _unit(sample[torch.from_numpy(np.sort(rng.permutation(len(sample))[:count]))].clone())
    for _ in range(ROUNDS):
        nearest = _assign(sample, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 0, _unit(sums), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.numpy()


def assign(rows: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "c d"]) -> Int[np.ndarray, " n"]:
    """The centre of largest dot product with each row, the first among equals."""
    return _assign(torch.from_numpy(rows), torch.from_numpy(centres)).numpy()


def _assign(rows: Tensor, centres: Tensor) -> Tensor:
    found = torch.empty(len(rows), dtype=torch.int64)
    for start, stop in slab_ranges(len(rows), slab_rows(len(centres))):
        found[start:stop] = (rows[start:stop] @ centres.T).argmax(dim=1)
    return found


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)

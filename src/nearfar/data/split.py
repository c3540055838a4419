"""Holding out: no query, positive or group of one side is on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nearfar.data.sampling import components
from nearfar.data.text import normalize
from nearfar.errors import BadInput
from nearfar.types import Pair


class Split(NamedTuple):
    """Two sides that share no text and no group, each in the order of the file."""

    train: list[Pair]
    held_out: list[Pair]


def split_pairs(pairs: Sequence[Pair], count: int, *, seed: int = 0) -> Split:
    """Hold out about `count` pairs: whole components of pairs connected by a query, a positive or a group, in seeded order.

    A component that would overshoot is passed over. Raises `BadInput` where everything hangs together or too little is left.
    """
    links = (
        [("query", normalize(p.query)), ("positive", normalize(p.positive))]
        + ([("group", p.group)] if p.group is not None else [])
        for p in pairs
    )
    component = components(links)
    sizes = np.bincount(component)
    held = np.zeros(len(sizes), dtype=bool)
    taken = 0
    for c in np.random.default_rng(seed).permutation(len(sizes)):
        if taken + sizes[c] <= count:
            held[c] = True
            taken += int(sizes[c])
    if taken < max(1, count // 2) or taken >= len(pairs) - 1:
        raise BadInput(
            f"cannot hold out {count:,} of {len(pairs):,} pairs: they hang together by shared texts and groups in {len(sizes):,} parts "
            f"(the largest has {int(sizes.max()) if len(sizes) else 0:,} pairs). Give an evaluation task of your own, or fewer groups."
        )
    chosen = held[component]
    return Split([p for p, h in zip(pairs, chosen, strict=True) if not h], [p for p, h in zip(pairs, chosen, strict=True) if h])

"""Captions that share pictures and pictures that share captions: what is one thing is one group, so that none is another's negative.

A picture with several captions, or a caption with several pictures, needs no group: targets leave both out by item and by query. Where a picture of several captions shares one of them
with another picture, every caption of either may be right for both, and no id of one column can say that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nearfar.data.sampling import components
from nearfar.data.text import normalize_all
from nearfar.types import Pair

SMALL, SHARE = 64, 0.02
"""Pairs that hang together by more than both (and that share of all) are held together by captions that say nothing ("a photo"), not by one thing: they get no group."""


def group_shared(pairs: Sequence[Pair]) -> tuple[list[Pair], int]:
    """The pairs with the name of their first picture as `group` where several captions and pictures hang together; and how many hang together too widely for that.

    Pairs that have a group keep it.
    """
    queries, positives = normalize_all([p.query for p in pairs]), normalize_all([p.positive for p in pairs])
    part = components([("query", q), ("positive", p)] for q, p in zip(queries, positives, strict=True))
    sizes = np.bincount(part)
    asked, told = (_distinct(part, texts) for texts in (queries, positives))
    mixed = (asked > 1) & (told > 1)
    wide = mixed & (sizes > max(SMALL, SHARE * len(pairs)))
    first: dict[int, str] = {}
    found: list[Pair] = []
    for number, pair in zip(part.tolist(), pairs, strict=True):
        name = first.setdefault(number, str(pair.positive))
        found.append(replace(pair, group=name) if pair.group is None and mixed[number] and not wide[number] else pair)
    return found, int(sizes[wide].sum())


def _distinct(part: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """How many distinct texts each component has."""
    both = {(number, text) for number, text in zip(part.tolist(), texts, strict=True)}
    return np.bincount([number for number, _ in both], minlength=int(part.max(initial=-1)) + 1)

"""Exchanged positives: pairs that rank low, and whose query is near to the positive of another pair that ranks low. Proof that rows were shuffled, where the share alone proves little.

Decisions. A shuffle takes nothing out of a file: the positive that a query lost is another row's now, and strange there, too. So it is among the few positives that rank low, and where it stands first for the query, and the query first for
it, that is no accident: of as many positives drawn from pairs that belong together, hardly one does. Pairs that belong together and rank low (an abbreviation in place of the name) find less among each other's positives than chance
does, being odd. What this counts are pairs of a shuffle, not all: both rows must rank low, and the similarity must see what the query lost. So it is a lower bound.
"""

from __future__ import annotations

from math import exp
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nearfar.auditing.nearness import Nearness
from nearfar.metrics.shares import Z

LOW = (0.1, 0.25)
"""A positive that more than this share of others is nearer than ranks low: both are tried, and what chance explains least is told."""
MOST = 0.25
"""Where more of the pairs than this rank low nothing is looked for: chance would find too much, and the share itself is proof."""
NEAREST = 10
"""A lost positive is looked for among so many nearest ones, at most."""
ASKED = 500
"""Pairs that rank well, of which is asked how near their own positives stand."""
DRAWS = 20
"""Draws of other positives that tell what chance would find."""
UNLIKELY = 5e-4
"""So often, at most, does chance find as many: then they are proof."""
FEWEST, TIMES = 3, 2.0
"""Fewer are no proof, nor are fewer than so many times what chance finds: pairs that rank low can have a topic in common."""
RELATED = 0.03
"""Texts that fewer others than this share are nearer to are of one topic."""
_ROWS = 256


class Exchanged(NamedTuple):
    """Pairs [e] (by `Nearness`' numbers), for each the pair that holds what it may have lost, nearest first; how many chance would find, and from where on a positive ranks low."""

    pairs: np.ndarray
    holders: np.ndarray
    by_chance: float = 0.0
    bar: float = LOW[0]

    @property
    def likelihood(self) -> float:
        """How often chance finds as many."""
        return _poisson_from(len(self.pairs), max(self.by_chance, 1 / DRAWS))

    @property
    def is_proof(self) -> bool:
        """Whether chance would hardly have found so many, nor a topic in common."""
        return len(self.pairs) >= max(FEWEST, TIMES * self.by_chance) and self.likelihood < UNLIKELY

    def at_least(self) -> float:
        """How many pairs were exchanged, at least (97.5 % sure)."""
        count = len(self.pairs)
        return max(0.0, count - self.by_chance - Z * float(np.sqrt(count + self.by_chance / DRAWS))) if self.is_proof else 0.0

    def about(self) -> float:
        """How many were exchanged, if both rows of all that rank low by chance alone were seen here: rather too few."""
        return max(0.0, len(self.pairs) - self.by_chance) / (1 - self.bar) ** 2 if self.is_proof else 0.0


NONE = Exchanged(np.zeros(0, np.int64), np.zeros(0, np.int64))


def exchanged(near: Nearness, told: np.ndarray, ranks: Float[np.ndarray, " m"]) -> Exchanged:
    """What was exchanged among the pairs `told` [m] that rank low by their percentiles."""
    return min((_beyond(near, told, ranks, bar) for bar in LOW), key=lambda found: found.likelihood)


def _beyond(near: Nearness, told: np.ndarray, ranks: Float[np.ndarray, " m"], bar: float) -> Exchanged:
    low = told[ranks > bar]
    # each text once, by the first pair that holds it; a text is strange where no pair that ranks well holds it
    texts, first, number = np.unique(near.documents, return_index=True, return_inverse=True)
    is_strange = np.ones(len(texts), bool)
    is_strange[number[np.setdiff1d(np.arange(len(near)), low)]] = False
    strange, others = np.flatnonzero(is_strange), np.flatnonzero(~is_strange)
    if len(low) < 2 or len(low) > MOST * len(told) or not 0 < len(strange) <= len(others):
        return NONE
    rng = np.random.default_rng(near.material.seed)
    nearest = _how_many(near, rng.permutation(told[ranks <= bar])[:ASKED], first, len(strange))
    sets = [strange, *(np.sort(rng.choice(others, len(strange), replace=False)) for _ in range(DRAWS))]
    best, is_near, how_near = (np.zeros((len(sets), len(low)), kind) for kind in (np.int64, bool, np.float64))
    nearest_query, how_near_it = np.zeros(len(texts), np.int64), np.full(len(texts), -np.inf)
    for start in range(0, len(low), _ROWS):
        block = slice(start, start + _ROWS)
        _, table = _foreign(near, low[block], first)
        last = np.partition(table, -nearest, axis=1)[:, -nearest]
        rows = np.arange(len(table))
        for one, texts_of_one in enumerate(sets):
            best[one, block] = texts_of_one[np.argmax(table[:, texts_of_one], axis=1)]
            how_near[one, block] = table[rows, best[one, block]]
            is_near[one, block] = (how_near[one, block] >= last) & np.isfinite(how_near[one, block])
        mine = table.argmax(axis=0)
        is_nearer = table[mine, np.arange(len(texts))] > how_near_it
        nearest_query[is_nearer] = start + mine[is_nearer]
        how_near_it[is_nearer] = table[mine, np.arange(len(texts))][is_nearer]
    hits = is_near & (nearest_query[best] == np.arange(len(low)))
    order = np.flatnonzero(hits[0])[np.argsort(-how_near[0, hits[0]], kind="stable")]
    pairs, holders = low[order], first[best[0, order]]
    apart = _strangers(near, pairs, holders)
    return Exchanged(pairs[apart], holders[apart], float(hits[1:].sum()) / DRAWS, bar)


def _strangers(near: Nearness, pairs: np.ndarray, holders: np.ndarray) -> np.ndarray:
    """Which of these rows have nothing else in common: neither their queries nor their positives are near each other, nor the holder's query the pair's positive.

    Rows of one topic whose texts share few words stand as near to each other's positives as to their own, and were not exchanged.
    """
    apart = (near.alike(pairs, holders, "query") > RELATED) & (near.alike(pairs, holders, "positive") > RELATED)
    for start in range(0, len(pairs), _ROWS):
        block = slice(start, start + _ROWS)
        back = near.near(holders[block], pairs[block])
        rows = np.arange(len(back.own))
        its, others = back.others[rows, rows], near.near(holders[block]).others
        apart[block] &= (others > its[:, None]).mean(axis=1) + (others == its[:, None]).mean(axis=1) / 2 > RELATED
    return apart


def _foreign(near: Nearness, part: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How near queries are to their own positives, and to the positives of the pairs `columns`: those that the file names for the query are at minus infinity."""
    scores = near.near(part, columns)
    return scores.own, np.where(scores.itself, -np.inf, scores.others)


def _how_many(near: Nearness, well: np.ndarray, columns: np.ndarray, strange: int) -> int:
    """Among how many nearest positives to look: where pairs that rank well find most of their own, as against what chance finds there.

    As if one in ten of the pairs that rank low were exchanged: were it more, proof would be easy.
    """
    places: list[np.ndarray] = []
    for start in range(0, len(well), _ROWS):
        own, table = _foreign(near, well[start : start + _ROWS], columns)
        places.append((table > own[:, None]).sum(axis=1))
    found = np.cumsum(np.bincount(np.concatenate(places), minlength=NEAREST)[:NEAREST]) / len(well)
    by_chance = np.minimum(1, np.arange(1, NEAREST + 1) * strange / len(columns))
    return 1 + int(np.argmax(found / np.sqrt(found / 10 + by_chance)))


def _poisson_from(count: int, mean: float) -> float:
    """How likely a Poisson number of this mean is `count` or more."""
    if count == 0:
        return 1.0
    term = total = exp(-mean)
    for number in range(1, count):
        term *= mean / number
        total += term
    return max(0.0, 1.0 - total)

"""How near each query is to positives of the file: by BM25, by a model, or by both.

Decisions. Both are sums of one thing: each less the document's mean over all queries (a document that is near to everything says nothing), and in units of its spread over the query's others.
Pairs of one group ask for one thing, so their queries are asked together, and none of their positives is another's rival: a short text says little, sixty of one intent say it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from nearfar.auditing.material import Material
from nearfar.auditing.words import Terms
from nearfar.types import Pair

PAIRS = 20_000
"""Pairs looked at, at most: chosen by the seed."""
OTHERS = 512
"""Other positives that each is ranked among."""
ASKED = 64
"""Queries of one group that are asked together, at most."""
SHRUNK = 0.1
"""How far the variances inside groups are drawn to their mean."""
ROWS = 2_048
"""Pairs at a time."""
_TIE = 1e-6


class Near(NamedTuple):
    """Of some pairs: how near each query is to its own positive, to other positives, and which of those are no other (the same text, or one of its group)."""

    own: Float[np.ndarray, " r"]
    others: Float[np.ndarray, "r c"]
    itself: Bool[np.ndarray, "r c"]

    def nearer(self) -> Float[np.ndarray, "r c"]:
        """1 where another is nearer than the own positive, ½ for ties, 0 where it is farther or no other."""
        found = np.where(
            self.others > self.own[:, None] + _TIE, 1.0, np.where(self.others < self.own[:, None] - _TIE, 0.0, 0.5)
        )
        found[self.itself] = 0
        return found


class Nearness:
    """The judged pairs of a file, `PAIRS` of them at most; `rows` [m] are their numbers in it."""

    def __init__(self, material: Material) -> None:
        rng = np.random.default_rng(material.seed)
        rows = judged(material)
        if len(rows) > PAIRS:
            rows = np.sort(rng.choice(rows, PAIRS, replace=False))
        self.material, self.rows = material, rows
        pairs = [material.pairs[row] for row in rows]
        self.reference = np.sort(rng.choice(len(pairs), min(OTHERS, len(pairs)), replace=False))
        """The pairs whose positives each positive is ranked among."""
        self._group = _groups(pairs)
        asked, self._size = _asked(pairs, self._group)
        self._words = None if material.has_pictures else Terms(asked, [pair.positive for pair in pairs])
        self._word_means = self._words.means() * (len(asked) / self._size.sum()) if self._words is not None else None
        self._vectors = _vectors(material, rows, self._group)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def documents(self) -> np.ndarray:
        """The document number of each pair's positive [m]."""
        return self.material.positives[self.rows]

    def near(self, part: np.ndarray, columns: np.ndarray | None = None) -> Near:
        """Of the pairs `part` [r], to the positives of the pairs `columns` [c] (default: the reference)."""
        own, others, itself = self._scores(part, self.reference)
        scale = [_scale(table, itself) for table in others]
        if columns is not None:
            own, others, itself = self._scores(part, columns)
        return Near(
            np.sum([(mine - middle) / spread for mine, (middle, spread) in zip(own, scale, strict=True)], axis=0),
            np.sum(
                [(t - middle[:, None]) / spread[:, None] for t, (middle, spread) in zip(others, scale, strict=True)], axis=0
            ),
            itself,
        )

    def percentiles(self) -> tuple[np.ndarray, Float[np.ndarray, " m"]]:
        """(which pairs, the share of the reference that is nearer to the query than its own positive, ties half): 0 is first, uniform is chance.

        Without a model a query that shares no word with any of them says nothing, and is left out (Chinese, which has no spaces).
        """
        found = np.empty(len(self))
        told = np.full(len(self), self._vectors is not None)
        for start in range(0, len(self), ROWS):
            part = np.arange(start, min(start + ROWS, len(self)))
            near = self.near(part)
            found[part] = near.nearer().sum(axis=1) / np.maximum((~near.itself).sum(axis=1), 1)
            if self._vectors is None and self._words is not None:
                told[part] = self._shares_a_word(part)
        return np.flatnonzero(told), found[told]

    @cached_property
    def _known(self) -> dict[int, set[int]]:
        """The document numbers that the file names for each query number."""
        found: dict[int, set[int]] = {}
        for query, document in zip(self.material.queries.number.tolist(), self.material.positives.tolist(), strict=True):
            found.setdefault(query, set()).add(document)
        return found

    def alike(self, one: np.ndarray, other: np.ndarray, side: str) -> Float[np.ndarray, " e"]:
        """Of pairs [e] and [e], the share of the reference that is nearer to the first's "query" or "positive" than the other's is: 0 is nearest, ½ chance."""
        if not len(one):
            return np.zeros(0)
        columns = np.concatenate([other, self.reference])
        total, its = np.zeros((len(one), len(self.reference))), np.zeros(len(one))
        tables: list[np.ndarray] = []
        if self._words is not None:
            pairs = self.material.pairs
            texts = [getattr(pairs[int(row)], side) for row in self.rows[np.concatenate([one, columns])]]
            words = Terms(texts[: len(one)], texts[len(one) :])
            tables.append(words.against(np.arange(len(one)), np.arange(len(columns))))
        if self._vectors is not None:
            numbers = self.material.queries.number if side == "query" else self.material.positives
            held = self.material.query_rows if side == "query" else self.material.document_rows
            vectors = _unit(held[numbers[self.rows[np.concatenate([one, columns])]]])
            tables.append(vectors[: len(one)] @ vectors[len(one) :].T)
        for table in tables:
            others = table[:, len(other) :]
            spread = others.std(axis=1) + 1e-6
            total += others / spread[:, None]
            its += table[np.arange(len(one)), np.arange(len(one))] / spread
        return (total > its[:, None] + _TIE).mean(axis=1) + (np.abs(total - its[:, None]) <= _TIE).mean(axis=1) / 2

    def words_tell(self) -> float:
        """The share of pairs, of 2,000 at most, whose query shares a word with its own positive or with one of the reference; 1 with pictures, which have none."""
        if self._words is None or not len(self):
            return 1.0
        return float(self._shares_a_word(np.unique(np.linspace(0, len(self) - 1, ROWS).astype(np.int64))).mean())

    def _shares_a_word(self, part: np.ndarray) -> np.ndarray:
        assert self._words is not None
        group = self._group[part]
        return self._words.against(group, self.reference).any(axis=1) | (self._words.scores(group, part) > 0)

    def _scores(self, part: np.ndarray, columns: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """(own, others) by words and by the model, where these are, each less the documents' means; which others are none."""
        # one's own document among the others is no other, nor is what the file names for the same query or says is of one thing with it
        itself = self.documents[part][:, None] == self.documents[columns][None, :]
        itself |= self._group[part][:, None] == self._group[columns][None, :]
        places: dict[int, list[int]] = {}
        for column, document in enumerate(self.documents[columns].tolist()):
            places.setdefault(document, []).append(column)
        for row, query in enumerate(self.material.queries.number[self.rows[part]].tolist()):
            if len(known := self._known[query]) > 1:
                itself[row, [column for document in known for column in places.get(document, ())]] = True
        own: list[np.ndarray] = []
        others: list[np.ndarray] = []
        if self._words is not None and self._word_means is not None:
            group = self._group[part]
            several = self._size[group]
            own.append(self._words.scores(group, part) / several - self._word_means[part])
            others.append(self._words.against(group, columns) / several[:, None] - self._word_means[columns])
        if self._vectors is not None:
            queries, documents = self._vectors
            own.append((queries[part] * documents[part]).sum(axis=1) - self._centre[part])
            others.append(queries[part] @ documents[columns].T - self._centre[columns])
        return own, others, itself

    @cached_property
    def _centre(self) -> Float[np.ndarray, " m"]:
        """The mean similarity of each positive to all queries."""
        assert self._vectors is not None
        queries, documents = self._vectors
        return documents @ queries.mean(axis=0)


def judged(material: Material) -> np.ndarray:
    """The rows that say their texts belong together: all, or where there are scores those of the upper half of their range."""
    scores = [pair.score for pair in material.pairs]
    if any(score is None for score in scores):
        return np.arange(len(material))
    values = np.array(scores, np.float64)
    return np.flatnonzero(values >= (values.min() + values.max()) / 2)


def _groups(pairs: Sequence[Pair]) -> np.ndarray:
    """The number of each pair's group, none left out from 0 on; pairs without one are their own, and so are all where one group holds half of them (it says nothing)."""
    names: dict[str, int] = {}
    found = np.array([names.setdefault(p.group, len(names)) if p.group is not None else -1 for p in pairs], np.int64)
    alone = found < 0
    found[alone] = len(names) + np.arange(int(alone.sum()))
    return found if np.bincount(found).max(initial=0) < len(pairs) / 2 else np.arange(len(pairs))


def _asked(pairs: Sequence[Pair], group: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(the queries of each group as one text, how many those are): at most `ASKED`, the first ones."""
    found: list[list[str]] = [[] for _ in range(int(group.max(initial=-1)) + 1)]
    for number, pair in zip(group.tolist(), pairs, strict=True):
        if len(found[number]) < ASKED:
            found[number].append(pair.query)
    return ["\n".join(texts) for texts in found], np.array([len(texts) for texts in found])


def _vectors(material: Material, rows: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(the mean row of the queries of each pair's group, the row of its positive), both unit length; None without a model.

    Where groups are large enough to tell what varies inside them from what sets them apart, what varies inside counts for less (`_whiten`).
    """
    if material.encoder is None:
        return None
    queries, documents = material.query_rows[material.queries.number[rows]], material.document_rows[material.positives[rows]]
    sizes = np.bincount(group)
    sums = np.zeros((len(sizes), queries.shape[1]), np.float32)
    np.add.at(sums, group, queries)
    asked = (sums / sizes[:, None])[group]
    freedom = len(queries) - len(sizes)
    if freedom >= 2 * queries.shape[1]:
        turn = _whiten(queries - asked, freedom)
        asked, documents = (asked - asked.mean(axis=0)) @ turn, (documents - documents.mean(axis=0)) @ turn
    return _unit(asked), _unit(documents)


def _whiten(inside: Float[np.ndarray, "q d"], freedom: int) -> Float[np.ndarray, "d d"]:
    """The map under which queries vary alike in all directions inside their groups, by their deviations from their groups' means.

    Within-class covariance normalization (Hatch, Kajarekar and Stolcke 2006), shrunk a little towards equal variances. It is learned from queries alone: no positive, right or wrong, has a part in it.
    """
    values, axes = np.linalg.eigh(inside.T.astype(np.float64) @ inside / freedom)
    return (axes / np.sqrt((1 - SHRUNK) * values + SHRUNK * values.mean() + 1e-12)).astype(np.float32)


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _scale(table: Float[np.ndarray, "r c"], itself: Bool[np.ndarray, "r c"]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) of each row over others alone; (0, 1) where there is none."""
    count = (~itself).sum(axis=1)
    others = np.where(itself, 0.0, table)
    middle = others.sum(axis=1) / np.maximum(count, 1)
    spread = np.sqrt(np.where(itself, 0.0, (table - middle[:, None]) ** 2).sum(axis=1) / np.maximum(count, 1))
    return middle, np.where(count > 0, spread + 1e-6, 1.0)

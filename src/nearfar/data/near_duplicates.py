"""Near duplicates: texts whose sets of word pairs overlap by a given Jaccard similarity, found by prefix filtering, exactly.

Prefix filtering: Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity Search"; the shorter prefix of what is indexed, where sets
are taken by rising size: Xiao, Wang, Lin and Yu 2008, "Efficient Similarity Joins for Near Duplicate Detection", lemma 2. With shingles in one
fixed order (rarest first), two sets of similarity >= t share a shingle among the first |x| - ceil(t |x|) + 1 of each. MinHash (Broder 1997)
finds the same texts with some probability; here all are found, and 100,000 documents take less memory than their signatures would.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nearfar.types import Picture

_WORD = re.compile(r"\w+")
_SLACK = 1e-9  # of products that should be whole
ELEMENTS = 1 << 22
"""Shingles compared at a time: bounds the memory of checking."""
LOOKED = 1_000
"""`near_groups` compares a text with at most so many of those that share one of its rare shingles, those of like size first."""


def shingles(text: str) -> frozenset[str]:
    """The pairs of neighbouring words of a text, lower case; the word itself where there is only one."""
    words = _WORD.findall(text.lower())
    return frozenset(map(" ".join, pairwise(words))) if len(words) > 1 else frozenset(words)


def near_duplicates(texts: Sequence[str], against: Sequence[str], *, similarity: float = 0.8) -> list[bool]:
    """For each of `texts`, whether one of `against` is equal in words or at least `similarity` (Jaccard, of word pairs)."""
    return [twin >= 0 for twin in near_twins(texts, against, similarity=similarity).tolist()]


def near_twins(texts: Sequence[str], against: Sequence[str], *, similarity: float = 0.8) -> np.ndarray:
    """For each of `texts` the number of one of `against` that is at least `similarity` (Jaccard, of word pairs), -1 where none is: [n] int64."""
    both = _sets([*texts, *against])
    count = len(texts)
    found = np.full(count, -1, np.int64)
    joined = _Join(both, np.arange(count), np.arange(count, count + len(against)), similarity, itself=False)
    while True:
        asked, known = joined.take(found >= 0)
        if not len(asked):
            return found
        near = both.are_near(asked, known, similarity)
        found[asked[near]] = known[near] - count


def are_near(texts: Sequence[str], one: np.ndarray, other: np.ndarray, *, similarity: float = 0.8) -> np.ndarray:
    """Whether text `one[i]` and text `other[i]` (numbers of `texts`) are at least this similar (Jaccard, of word pairs): booleans [m]."""
    used, numbers = np.unique(np.concatenate([one, other]), return_inverse=True)
    return _sets([texts[int(number)] for number in used]).are_near(numbers[: len(one)], numbers[len(one) :], similarity)


def near_groups(texts: Sequence[str], *, similarity: float = 0.8) -> np.ndarray:
    """The number of the group of each text, [n] int64: texts linked by pairs of at least `similarity` (Jaccard, of word pairs) are one group.

    Groups are numbered by their first text's number. Texts without a word, and pictures, are groups of their own. Exact while no more than `LOOKED` texts share a rare
    shingle. Memory some 50 bytes a word.
    """
    sets = _sets(texts)
    root = np.arange(len(texts), dtype=np.int64)
    joined = _Join(sets, root, root, similarity, itself=True)
    while True:
        one, other = joined.take(None)
        if not len(one):
            return root
        apart = root[one] != root[other]
        one, other = one[apart], other[apart]
        near = sets.are_near(one, other, similarity)
        for a, b in zip(one[near].tolist(), other[near].tolist(), strict=True):
            while root[a] != a:
                a = root[a]
            while root[b] != b:
                b = root[b]
            root[max(a, b)] = min(a, b)
        while (root[root] != root).any():
            root = root[root]


class _Sets(NamedTuple):
    """The shingles of each text as numbers, rarest first: text i's are `ids[offsets[i]:offsets[i + 1]]`, ascending. `keys` is text x span + id."""

    ids: np.ndarray
    offsets: np.ndarray
    keys: np.ndarray
    span: int

    def are_near(self, one: np.ndarray, other: np.ndarray, similarity: float) -> np.ndarray:
        """Whether each pair of texts is at least this similar: booleans [m]."""
        sizes = np.diff(self.offsets)
        swap = sizes[one] > sizes[other]
        small, large = np.where(swap, other, one), np.where(swap, one, other)
        shared = np.zeros(len(one), np.int64)
        ends = np.cumsum(sizes[small])
        start = 0
        while start < len(one):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + ELEMENTS, "right")))
            lengths = sizes[small[start:stop]]
            pair = np.repeat(np.arange(start, stop), lengths)
            within = np.arange(len(pair)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            asked = large[pair] * self.span + self.ids[self.offsets[small[pair]] + within]
            place = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
            shared += np.bincount(pair[self.keys[place] == asked], minlength=len(one))
            start = stop
        return shared >= similarity * (sizes[one] + sizes[other] - shared)


def _sets(texts: Sequence[str]) -> _Sets:
    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__
    flat, lengths = array("q"), array("q")
    for text in texts:
        words = () if isinstance(text, Picture) else _WORD.findall(text.lower())
        flat.extend(map(number.__getitem__, words))
        lengths.append(len(words))
    words_of = np.frombuffer(lengths, np.int64) if lengths else np.zeros(0, np.int64)
    left = np.frombuffer(flat, np.int64) if flat else np.zeros(0, np.int64)
    right = np.append(left[1:], 0)
    text = np.repeat(np.arange(len(texts)), words_of)
    last = np.zeros(len(left), bool)
    last[np.cumsum(words_of)[words_of > 0] - 1] = True
    base = len(number) + 1
    codes = left * base + np.where(last, base - 1, right)  # a word alone is paired with the number that no word has
    kept = ~last | (words_of[text] == 1)
    names, codes = np.unique(codes[kept], return_inverse=True)
    count = max(len(names), 1)
    keys = np.unique(text[kept] * count + codes)  # each shingle once in each text
    frequency = np.bincount(keys % count, minlength=count)
    rank = np.empty(count, np.int64)
    rank[np.argsort(frequency, kind="stable")] = np.arange(count)
    keys = np.sort(keys // count * count + rank[keys % count])
    sizes = np.bincount(keys // count, minlength=len(texts))
    return _Sets(keys % count, np.concatenate([[0], np.cumsum(sizes)]), keys, count)


class _Join:
    """Pairs of texts that share a shingle among their rarest and are of like size, some more at each `take`."""

    def __init__(self, sets: _Sets, asked: np.ndarray, known: np.ndarray, similarity: float, *, itself: bool) -> None:
        sizes = np.diff(sets.offsets)
        self._known = known[np.argsort(sizes[known], kind="stable")]  # by rising size
        ordered = sizes[self._known]
        n = max(len(known), 1)
        needed = 2 * similarity / (1 + similarity) if itself else similarity
        place, shingle = _prefixes(sets, self._known, needed)
        self._keys = np.sort(shingle * n + place)
        self._n = n
        row, shingle = _prefixes(sets, asked, similarity)
        self._asked = asked[row]
        size = sizes[self._asked]
        least = np.searchsorted(ordered, np.ceil(similarity * size - _SLACK), "left")
        if itself:  # with those before it alone
            rank = np.empty(len(known), np.int64)
            rank[self._known] = np.arange(len(known))
            most = rank[self._asked]
        else:
            most = np.searchsorted(ordered, np.floor(size / similarity + _SLACK), "right")
        self._low = np.searchsorted(self._keys, shingle * n + np.minimum(least, most))
        self._high = np.searchsorted(self._keys, shingle * n + most)
        if itself:
            self._low = np.maximum(self._low, self._high - LOOKED)
        self._width = 1

    def take(self, settled: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The next pairs (asked, known), each once; none of what is `settled`. Empty at the end."""
        open_ = self._high > self._low
        if settled is not None:
            open_ &= ~settled[self._asked]
        self._asked, self._low, self._high = self._asked[open_], self._low[open_], self._high[open_]
        width = max(1, min(self._width, ELEMENTS // 8 // max(len(self._asked), 1)))
        self._width *= 2
        taken = np.minimum(width, self._high - self._low)
        row = np.repeat(np.arange(len(taken)), taken)
        within = np.arange(len(row)) - np.repeat(np.cumsum(taken) - taken, taken)
        known = self._known[self._keys[self._high[row] - 1 - within] % self._n]
        asked = self._asked[row]
        self._high = self._high - taken
        top = int(max(known.max(initial=0), asked.max(initial=0))) + 1
        pairs = np.unique(asked * top + known)
        return pairs // top, pairs % top


def _prefixes(sets: _Sets, texts: np.ndarray, needed: float) -> tuple[np.ndarray, np.ndarray]:
    """(number within `texts`, shingle) of the first |x| - ceil(needed |x|) + 1 shingles of each text; none of an empty one."""
    sizes = np.diff(sets.offsets)[texts]
    lengths = np.where(sizes > 0, sizes - np.ceil(needed * sizes - _SLACK).astype(np.int64) + 1, 0)
    lengths = np.minimum(lengths, sizes)
    row = np.repeat(np.arange(len(texts)), lengths)
    within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, sets.ids[sets.offsets[texts[row]] + within]

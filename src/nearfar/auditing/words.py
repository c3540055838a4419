"""BM25 of chosen pairs of texts, without an index: rows of term weights, and their dot products (Robertson 2009; Lucene's formula)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nearfar.index.lexical import K1, B, stems


class Terms:
    """Queries [b] and documents [n] as terms; a score is the sum of the weights that the document gives the query's terms."""

    def __init__(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        number: defaultdict[str, int] = defaultdict()
        number.default_factory = number.__len__
        asked, held = ([[number[word] for word in text] for text in stems(texts)] for texts in (queries, documents))
        self.queries, self.documents = len(queries), len(documents)
        self._count = max(len(number), 1)
        self._row, self._term = _flat(asked)
        row, term = _flat(held)
        lengths = np.bincount(row, minlength=len(documents))
        self._keys, frequency = np.unique(row * self._count + term, return_counts=True)
        self._doc, self._doc_term = self._keys // self._count, self._keys % self._count
        holding = np.bincount(self._doc_term, minlength=self._count)
        rarity = np.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        average = max(float(lengths.mean()) if len(lengths) else 0.0, 1.0)
        dampened = frequency / (frequency + K1 * (1 - B + B * lengths[self._doc] / average))
        self._weights = (rarity[self._doc_term] * dampened).astype(np.float32)

    def scores(self, rows: np.ndarray, documents: np.ndarray) -> Float[np.ndarray, " m"]:
        """The score of each query number with the document number beside it."""
        starts = np.searchsorted(self._row, rows)
        lengths = np.searchsorted(self._row, rows, "right") - starts
        pair = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        asked = documents[pair] * self._count + self._term[starts[pair] + within]
        place = np.minimum(np.searchsorted(self._keys, asked), max(len(self._keys) - 1, 0))
        if not len(self._keys):
            return np.zeros(len(rows))
        weights = np.where(self._keys[place] == asked, self._weights[place], 0)
        return np.bincount(pair, weights=weights, minlength=len(rows))

    def against(self, rows: np.ndarray, documents: np.ndarray) -> Float[np.ndarray, "b r"]:
        """The score of each of these query numbers with each of these document numbers, float32."""
        starts, stops = np.searchsorted(self._row, rows), np.searchsorted(self._row, rows, "right")
        asked = [self._term[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        # only the terms that are asked for: a file's vocabulary can be as long as the file
        line = np.full(self._count, -1)
        terms = np.unique(np.concatenate(asked)) if asked else np.zeros(0, np.int64)
        line[terms] = np.arange(len(terms))
        column = np.full(self.documents, -1)
        column[documents] = np.arange(len(documents))
        chosen = (column[self._doc] >= 0) & (line[self._doc_term] >= 0)
        table = np.zeros((len(terms), len(documents)), np.float32)
        table[line[self._doc_term[chosen]], column[self._doc[chosen]]] = self._weights[chosen]
        found = np.zeros((len(rows), len(documents)), np.float32)
        for i, one in enumerate(asked):
            found[i] = table[line[one]].sum(axis=0)
        return found

    def means(self) -> Float[np.ndarray, " n"]:
        """The mean score of each document over all queries."""
        asked = np.bincount(self._term, minlength=self._count) / max(self.queries, 1)
        return np.bincount(self._doc, weights=self._weights * asked[self._doc_term], minlength=self.documents)


def _flat(lists: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter((len(items) for items in lists), np.int64, len(lists))
    flat = np.fromiter((item for items in lists for item in items), np.int64, int(lengths.sum()))
    return np.repeat(np.arange(len(lists)), lengths), flat

"""BM25 over a corpus that is searched once: English stemming and stop words, Lucene's formula (Kamphuis 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer

from nearfar.types import Hits


def rank_terms(documents: Sequence[str], queries: Sequence[str], k: int) -> Hits:
    """The k documents of highest BM25 score (k1 1.5, b 0.75) for each query, ties by ascending row; none that shares no term."""
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: Sequence[str]) -> list[list[str]]:
        found = bm25s.tokenize(list(texts), stopwords="english", stemmer=stemmer, return_ids=False, show_progress=False)
        assert isinstance(found, list)
        return found

    ids = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    words = tokens(documents)
    if any(words):
        index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        index.index(words, show_progress=False)
        for row, terms in enumerate(tokens(queries)):
            found = index.get_scores(terms)
            best = np.argsort(-found, kind="stable")[:k]
            best = best[found[best] > 0]
            ids[row, : len(best)], scores[row, : len(best)] = best, found[best]
    return Hits(ids, scores)

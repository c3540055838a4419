"""Documents found by their words: BM25 with English stemming and stop words (Robertson 2009; Lucene's formula, Kamphuis 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import bm25s
import numpy as np
import Stemmer

from nearfar.errors import BadInput, Damaged
from nearfar.index.folder import Stored, save_folder
from nearfar.index.records import Records, check_k
from nearfar.types import Hits, Picture

K1, B = 1.5, 0.75
_PARTS: dict[str, Any] = {
    "data_name": "term_weights.npy",
    "indices_name": "term_rows.npy",
    "indptr_name": "term_starts.npy",
    "vocab_name": "terms.json",
    "params_name": "formula.json",
}


class LexicalIndex:
    """The k documents of highest BM25 score (k1 1.5, b 0.75) for each query text. Search O(b n), no model.

    The score of a word depends on all documents, so additions and removals are counted at the next search or save, once.
    """

    kind = "lexical"

    def __init__(self) -> None:
        """An empty index."""
        self._records = Records()
        self._terms: bm25s.BM25 | None = None
        self._counted = True

    @classmethod
    def build(cls, keys: Sequence[str], documents: Sequence[str]) -> Self:
        """An index of these documents. Raises `BadInput` as `add`."""
        index = cls()
        index.add(keys, documents)
        return index

    def __len__(self) -> int:
        return len(self._records)

    @property
    def keys(self) -> Sequence[str]:
        """The document id of each row number."""
        return self._records.keys

    @property
    def documents(self) -> Sequence[str]:
        """The document of each row number."""
        return self._records.documents

    def add(self, keys: Sequence[str], documents: Sequence[str]) -> None:
        """Add documents after the last row. Raises `BadInput` for a key that is known or given twice, and for a picture; nothing is then added."""
        _refuse_pictures(documents)
        self._records.check_new(keys, documents)
        self._records.append(keys, documents)
        self._counted = False

    def upsert(self, keys: Sequence[str], documents: Sequence[str]) -> None:
        """As `add`, but known keys are replaced (and move to the end). Raises as `add`."""
        _refuse_pictures(documents)
        self._records.check_new(keys, documents, replacing=True)
        self.remove(self._records.known(keys))
        self.add(keys, documents)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove documents; later rows move up. Raises `BadInput` for an unknown key, and then removes none."""
        self._records.drop(self._records.rows(keys))
        self._counted = False

    def search(self, query_texts: Sequence[str], k: int = 10) -> Hits:
        """The k rows of highest score for each text, ties by ascending row; -1 where fewer documents share a word with it.

        Raises `BadInput` for k < 1, and for one text where a list of texts belongs.
        """
        check_k(k)
        if isinstance(query_texts, str) or not all(isinstance(text, str) for text in query_texts):
            raise BadInput("query_texts: a lexical index is searched with a list of texts. Put one text in a list: [text].")
        ids = np.full((len(query_texts), k), -1, dtype=np.int64)
        scores = np.full((len(query_texts), k), -np.inf, dtype=np.float32)
        terms = self._count()
        if terms is None:
            return Hits(ids, scores)
        for row, words in enumerate(stems(query_texts)):
            known = terms.get_tokens_ids(words)
            if known:
                found = terms.get_scores_from_ids(known)
                sharing = np.flatnonzero(found > 0)
                best = sharing[np.lexsort((sharing, -found[sharing]))[:k]]
                ids[row, : len(best)], scores[row, : len(best)] = best, found[best]
        return Hits(ids, scores)

    def save(self, folder: Path | str) -> None:
        """Write the index to `folder`, whole or not at all, in place of an index that is there. Raises `BadInput` for other content."""
        self._count()
        save_folder(folder, self.kind, self._records, self._fill)

    @classmethod
    def restore(cls, stored: Stored) -> Self:
        """The index in a folder that `read_folder` found whole. Raises `Damaged` where its parts disagree."""
        index = cls()
        index._records = stored.records()
        if _PARTS["vocab_name"] in stored.files:
            for name in _PARTS.values():
                stored.file(name)
            try:
                terms = bm25s.BM25.load(stored.path, **_PARTS, show_progress=False)
            except (ValueError, KeyError, TypeError, OSError) as error:
                raise Damaged(f"{stored.path}: bm25s cannot read its terms ({error}). Index the documents again.") from error
            stored.check_count(stored.path / _PARTS["params_name"], terms.scores["num_docs"])
            index._terms = terms
        return index

    def _fill(self, target: Path) -> None:
        if self._terms is not None:
            self._terms.save(target, **_PARTS, show_progress=False)

    def _count(self) -> bm25s.BM25 | None:
        """The term scores of the present documents; None where no document has a word."""
        if not self._counted:
            words = stems(self.documents)
            number = {word: i for i, word in enumerate(sorted({word for text in words for word in text}))}
            self._terms = None
            if number:
                terms = bm25s.BM25(method="lucene", k1=K1, b=B)
                numbers = [[number[word] for word in text] for text in words]
                terms.index((numbers, number), create_empty_token=False, show_progress=False)
                self._terms = terms
            self._counted = True
        return self._terms


def _refuse_pictures(texts: Sequence[str]) -> None:
    picture = next((text for text in texts if isinstance(text, Picture)), None)
    if picture is not None:
        raise BadInput(
            f"{picture}: a picture, and BM25 compares words. Choose a model with an image tower (of mining's sources dense or random)."
        )


def stems(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that the index counts: stemmed, stop words left out, in order, repeated as they are. Raises `BadInput` for a picture."""
    _refuse_pictures(texts)
    stemmer = Stemmer.Stemmer("english")
    found = bm25s.tokenize(list(texts), stopwords="english", stemmer=stemmer, return_ids=False, show_progress=False)
    assert isinstance(found, list)
    return found

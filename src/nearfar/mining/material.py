"""The texts of mining as numbers: queries, documents, which documents may be found at all, and what is never whose negative."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from nearfar.data.sampling import components
from nearfar.data.text import normalize
from nearfar.errors import BadInput
from nearfar.mining.rule import text_numbers
from nearfar.types import Pair

Kind = Literal["positive", "query", "group"]
KINDS: tuple[Kind, ...] = ("positive", "query", "group")
"""Why a document is never a negative of a query: it is a known positive of it (or of the same text), the query itself, or of its group."""


@dataclass(frozen=True)
class Material:
    """P pairs over Q distinct queries and D distinct documents; of documents of the same text (normalized) one is a candidate.

    Candidates are the first of each item, in order of appearance: positives, hard negatives that are there, then the extra documents.
    """

    queries: list[str]
    documents: list[str]
    query_of: np.ndarray
    """[P] the query of each pair."""
    positive_of: np.ndarray
    """[P] the document that is its positive."""
    candidates: np.ndarray
    """[N] the documents that can be found, ascending."""
    candidate_items: np.ndarray
    """[N] the item of each."""
    candidate_of: np.ndarray
    """[D] the candidate that has each document's text (normalized)."""
    negatives_of: list[tuple[int, ...]]
    """[P] the documents that are hard negatives of each pair already."""
    owner_of: np.ndarray
    """[Q] queries of one text (normalized) or one group share an owner."""
    known: np.ndarray
    """Sorted distinct owner * items + item: what is never a negative of that owner."""
    own_positives: np.ndarray
    """The same of each query's text alone: query item * items + item of a positive."""
    query_items: np.ndarray
    """[Q] the item of each query."""
    items: int
    sources: list[str]
    """The names of the pairs' sources, '' for none."""
    sources_of_candidate: list[frozenset[int]]
    """[N] the sources of the pairs each is a document of; empty for extra documents."""
    sources_of_query: list[frozenset[int]]
    """[Q] likewise."""

    @staticmethod
    def build(pairs: Sequence[Pair], corpus: Iterable[str] = ()) -> Material:
        """Number the texts of `pairs` and of further documents. Raises `BadInput` where there is no pair or a text is blank."""
        if not pairs:
            raise BadInput("pairs: there is none to mine for. Give a file with queries and positives.")
        number: dict[str, int] = {}
        asked: dict[str, int] = {}
        item: dict[str, int] = {}
        source: dict[str, int] = {}

        def numbered(into: dict[str, int], text: str) -> int:
            return into.setdefault(text, len(into))

        query_of = np.array([numbered(asked, p.query) for p in pairs], dtype=np.int64)
        positive_of = np.array([numbered(number, p.positive) for p in pairs], dtype=np.int64)
        pair_sources = [numbered(source, p.source or "") for p in pairs]
        of_document: dict[int, set[int]] = {}
        of_query: list[set[int]] = [set() for _ in asked]
        negatives_of: list[tuple[int, ...]] = []
        for pair, own, q, p in zip(pairs, pair_sources, query_of.tolist(), positive_of.tolist(), strict=True):
            of_query[q].add(own)
            negatives_of.append(tuple(numbered(number, text) for text in pair.negatives))
            for document in (p, *negatives_of[-1]):
                of_document.setdefault(document, set()).add(own)
        for text in corpus:
            if text.strip():
                numbered(number, text)
        query_items = np.array([numbered(item, normalize(text)) for text in asked], dtype=np.int64)
        document_items = np.array([numbered(item, normalize(text)) for text in number], dtype=np.int64)
        candidate_items, candidates = np.unique(document_items, return_index=True)
        order = np.argsort(candidates)
        candidates, candidate_items = candidates[order], candidate_items[order]
        place_of_item = np.full(len(item), -1, dtype=np.int64)
        place_of_item[candidate_items] = np.arange(len(candidates))
        of_item: dict[int, set[int]] = {}
        for document, those in of_document.items():
            of_item.setdefault(int(document_items[document]), set()).update(those)

        links = [
            [("query", query_items[q])] + ([("group", p.group)] if p.group is not None else [])
            for q, p in zip(query_of, pairs, strict=True)
        ]
        pair_owner = components(links)
        owner_of = np.zeros(len(asked), dtype=np.int64)
        owner_of[query_of] = pair_owner
        positives = document_items[positive_of]
        known = np.unique(np.concatenate([pair_owner * len(item) + positives, pair_owner * len(item) + query_items[query_of]]))
        return Material(
            list(asked),
            list(number),
            query_of,
            positive_of,
            candidates,
            candidate_items,
            place_of_item[document_items],
            negatives_of,
            owner_of,
            known,
            np.unique(query_items[query_of] * len(item) + positives),
            query_items,
            len(item),
            list(source),
            [frozenset(of_item.get(i, ())) for i in candidate_items.tolist()],
            [frozenset(those) for those in of_query],
        )

    def never(self, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Which of the `found` candidates [b, k] (numbers into `candidates`, -1: none) are never negatives of `queries` [b]."""
        keys = self.owner_of[queries][:, None] * self.items + self.candidate_items[found]
        return _among(keys, self.known) & (found >= 0)

    def kinds(self, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Of what is never a negative, why: [m] places in `KINDS`, for m queries and candidates."""
        items = self.candidate_items[found]
        own = _among(self.query_items[queries] * self.items + items, self.own_positives)
        return np.where(own, 0, np.where(items == self.query_items[queries], 1, 2))

    @cached_property
    def never_counts(self) -> np.ndarray:
        """[Q] at most so many candidates are never negatives of each query."""
        of_owner = np.bincount(self.known // self.items, minlength=int(self.owner_of.max(initial=0)) + 1)
        return of_owner[self.owner_of]

    @cached_property
    def candidate_texts(self) -> list[str]:
        """[N] the documents that can be found."""
        return [self.documents[i] for i in self.candidates.tolist()]

    @cached_property
    def query_numbers(self) -> np.ndarray:
        """[Q] what draws for each query are made from."""
        return text_numbers(self.queries)

    @cached_property
    def candidate_numbers(self) -> np.ndarray:
        """[N] likewise for each candidate."""
        return text_numbers(self.candidate_texts)

    @cached_property
    def content(self) -> str:
        """A hash over all that decides what searches find: the texts in their order, whose they are, what is never whose, the sources."""
        digest = hashlib.sha256()
        for texts in (self.queries, self.documents):
            digest.update(f"{len(texts)}\0".encode())
            for text in texts:
                raw = text.encode(errors="surrogatepass")
                digest.update(len(raw).to_bytes(8, "little") + raw)
        for numbers in (self.query_of, self.positive_of, self.owner_of, self.known, self.own_positives, self.candidate_items):
            digest.update(numbers.astype("<i8").tobytes() + b"\0")
        digest.update(repr([sorted(s) for s in self.sources_of_candidate]).encode())
        digest.update(repr([sorted(s) for s in self.sources_of_query]).encode())
        return digest.hexdigest()


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which keys are in the sorted array `known`."""
    if not len(known):
        return np.zeros(keys.shape, dtype=bool)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[at] == keys

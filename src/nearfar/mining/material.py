"""The texts of mining as numbers: queries, documents, which documents may be found at all, and what is never whose negative."""

from __future__ import annotations

import gc
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from nearfar.data.sampling import PairTable
from nearfar.data.text import normalize_all
from nearfar.errors import BadInput
from nearfar.mining.rule import text_numbers
from nearfar.types import Pair

Kind = Literal["positive", "query", "group"]
KINDS: tuple[Kind, ...] = ("positive", "query", "group")
"""Why a document is never a negative of a query: it is a known positive of it (or of the same text), the query itself, or of its group."""


@contextmanager
def _without_collections() -> Iterator[None]:
    """No collection of cycles meanwhile: a hundred thousand small objects set off several, each over all there are, and none is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
    source_of: np.ndarray
    """[P] the source of each pair."""

    @staticmethod
    @_without_collections()
    def build(pairs: Sequence[Pair], corpus: Iterable[str] = ()) -> Material:
        """Number the texts of `pairs` and of further documents. Raises `BadInput` where there is no pair or a text is blank."""
        if not pairs:
            raise BadInput("pairs: there is none to mine for. Give a file with queries and positives.")
        return Material.of_table(PairTable.build(pairs), corpus)

    @staticmethod
    @_without_collections()
    def of_table(table: PairTable, corpus: Iterable[str] = ()) -> Material:
        """The material of pairs that are numbered already; queries and documents keep their numbers, further documents come after them."""
        number = {text: i for i, text in enumerate(table.documents)}
        extra = [text for text in dict.fromkeys(corpus) if text.strip() and text not in number]
        item = dict(zip(normalize_all(table.documents), table.document_item.tolist(), strict=True))
        item |= zip(normalize_all(table.queries), table.query_item.tolist(), strict=True)
        extra_items = [item.setdefault(text, len(item)) for text in normalize_all(extra)]
        document_items = np.concatenate([table.document_item, np.array(extra_items, dtype=np.int64)])
        candidate_items, candidates = np.unique(document_items, return_index=True)
        order = np.argsort(candidates)
        candidates, candidate_items = candidates[order], candidate_items[order]
        place_of_item = np.full(len(item), -1, dtype=np.int64)
        place_of_item[candidate_items] = np.arange(len(candidates))
        cuts = table.negative_offsets.tolist()
        negatives_of = [tuple(table.negative_ids[a:b].tolist()) for a, b in itertools.pairwise(cuts)]
        owner_of = np.zeros(len(table.queries), dtype=np.int64)
        owner_of[table.query_of] = table.group_of
        positives, asked = document_items[table.positive_of], table.query_item[table.query_of]
        return Material(
            table.queries,
            [*table.documents, *extra],
            table.query_of,
            table.positive_of,
            candidates,
            candidate_items,
            place_of_item[document_items],
            negatives_of,
            owner_of,
            np.unique(np.concatenate([table.group_of * len(item) + positives, table.group_of * len(item) + asked])),
            np.unique(asked * len(item) + positives),
            table.query_item,
            len(item),
            table.sources,
            table.source_of,
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
    def sources_of_candidate(self) -> list[frozenset[int]]:
        """[N] the sources of the pairs each is a document of; empty for extra documents."""
        found: list[set[int]] = [set() for _ in self.candidates]
        for own, positive, negatives in zip(self.source_of.tolist(), self.positive_of.tolist(), self.negatives_of, strict=True):
            for document in (positive, *negatives):
                found[int(self.candidate_of[document])].add(own)
        return _frozen(found)

    @cached_property
    def sources_of_query(self) -> list[frozenset[int]]:
        """[Q] the sources of the pairs each is a query of."""
        found: list[set[int]] = [set() for _ in self.queries]
        for own, query in zip(self.source_of.tolist(), self.query_of.tolist(), strict=True):
            found[query].add(own)
        return _frozen(found)

    @cached_property
    def content(self) -> str:
        """A hash over all that decides what searches find: the texts in their order, whose they are, what is never whose, the sources."""
        digest = hashlib.sha256()
        for texts in (self.queries, self.documents):
            encoded = [text.encode(errors="surrogatepass") for text in texts]
            digest.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
            for raw in encoded:
                digest.update(raw)
        for numbers in (self.query_of, self.positive_of, self.owner_of, self.known, self.own_positives, self.candidate_items):
            digest.update(numbers.astype("<i8").tobytes() + b"\0")
        if len(self.sources) > 1:
            digest.update(repr([sorted(s) for s in self.sources_of_candidate]).encode())
            digest.update(repr([sorted(s) for s in self.sources_of_query]).encode())
        return digest.hexdigest()


def _frozen(sets: Iterable[set[int]]) -> list[frozenset[int]]:
    """Each set, frozen; equal ones are one object, of which there are few."""
    known: dict[frozenset[int], frozenset[int]] = {}
    return [known.setdefault(own, own) for own in map(frozenset, sets)]


def _among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which keys are in the sorted array `known`."""
    if not len(known):
        return np.zeros(keys.shape, dtype=bool)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[at] == keys

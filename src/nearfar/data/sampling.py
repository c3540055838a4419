"""From pairs to steps: texts become ids once, and an epoch is a pure function of seed and epoch.

No batch holds two copies of a candidate, nor two pairs of one query or group where that can be avoided: what would repeat
waits for a later batch. So a run can be taken up at any step without replaying the ones before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nearfar.data.text import normalize
from nearfar.errors import BadInput
from nearfar.types import Pair


@dataclass(frozen=True)
class PairTable:
    """All pairs as numbers. P pairs over Q distinct queries and D distinct documents (positives and hard negatives).

    Texts are distinct as written; *items* are distinct after normalization, over queries and documents together. Arrays are int64.
    """

    queries: list[str]
    documents: list[str]
    query_of: np.ndarray
    """[P] the query of each pair."""
    positive_of: np.ndarray
    """[P] the document that is its positive."""
    negative_ids: np.ndarray
    """The documents that are hard negatives, pair after pair."""
    negative_offsets: np.ndarray
    """[P + 1] where each pair's hard negatives begin and end in `negative_ids`."""
    group_of: np.ndarray
    """[P] pairs of one query text or one group share a number: they are never each other's negatives."""
    query_item: np.ndarray
    """[Q] the item of each query."""
    document_item: np.ndarray
    """[D] the item of each document."""

    def __len__(self) -> int:
        return len(self.query_of)

    @staticmethod
    def build(pairs: Sequence[Pair]) -> PairTable:
        """Number all texts of `pairs`, in order of appearance."""
        queries, documents, items = _Numbers(), _Numbers(), _Numbers()
        query_of = np.array([queries[p.query] for p in pairs], dtype=np.int64)
        positive_of = np.array([documents[p.positive] for p in pairs], dtype=np.int64)
        counts = np.array([len(p.negatives) for p in pairs], dtype=np.int64)
        negative_ids = np.array([documents[text] for p in pairs for text in p.negatives], dtype=np.int64)
        query_item = np.array([items[normalize(text)] for text in queries.keys], dtype=np.int64)
        document_item = np.array([items[normalize(text)] for text in documents.keys], dtype=np.int64)
        links = (
            [("query", query_item[q])] + ([("group", p.group)] if p.group is not None else [])
            for q, p in zip(query_of, pairs, strict=True)
        )
        return PairTable(
            queries.keys,
            documents.keys,
            query_of,
            positive_of,
            negative_ids,
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            components(links),
            query_item,
            document_item,
        )


class _Numbers:
    """Numbers for things in order of first appearance."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    @property
    def keys(self) -> list[str]:
        return list(self.numbers)


def components(links: Iterable[Iterable[Hashable]]) -> np.ndarray:
    """Number the connected components of things that share a link: one int64 per thing, in order of first appearance."""
    parent: list[int] = []
    first: dict[Hashable, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for thing, keys in enumerate(links):
        parent.append(thing)
        for key in keys:
            a, b = root(first.setdefault(key, thing)), root(thing)
            parent[max(a, b)] = min(a, b)
    roots = np.array([root(i) for i in range(len(parent))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def epoch_batches(table: PairTable, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches (arrays of pair numbers) of one epoch: every pair once, in an order given by (seed, epoch) alone.

    No full batch holds two pairs of one candidate text or of one group: a pair that would repeat waits for a later batch. What
    waits at the end joins into batches up to half as large again, whose repeats the targets leave out. Linear in the pairs.
    Raises `BadInput` for a batch size below 2.
    """
    if batch_size < 2:
        raise BadInput(f"batch_size: {batch_size} leaves no negatives. Use at least 2 (more is better).")
    order = np.random.default_rng([seed, epoch]).permutation(len(table))
    item = table.document_item[table.positive_of].tolist()
    group = table.group_of.tolist()
    batches: list[list[int]] = []
    next_for_item: dict[int, int] = {}  # the first batch that can still take this item: its copies go to ever later batches
    next_for_group: dict[int, int] = {}
    first_open = 0
    for pair in order.tolist():
        at = max(first_open, next_for_item.get(item[pair], 0), next_for_group.get(group[pair], 0))
        while at < len(batches) and len(batches[at]) >= batch_size:
            at += 1
        if at >= len(batches):
            at = len(batches)
            batches.append([])
        batches[at].append(pair)
        next_for_item[item[pair]] = next_for_group[group[pair]] = at + 1
        while first_open < len(batches) and len(batches[first_open]) >= batch_size:
            first_open += 1
    return _join_small([np.array(batch, dtype=np.int64) for batch in batches], batch_size)


def _join_small(batches: list[np.ndarray], batch_size: int) -> list[np.ndarray]:
    """Batches under half size (what waited at the end) join into full ones; a small remainder joins the last batch."""
    full = [batch for batch in batches if 2 * len(batch) >= batch_size]
    small = [batch for batch in batches if 2 * len(batch) < batch_size]
    if small:
        pairs = np.concatenate(small)
        if full and 2 * len(pairs) < batch_size:
            full[-1] = np.concatenate([full[-1], pairs])
        else:
            full += np.array_split(pairs, max(1, round(len(pairs) / batch_size)))
    return full

"""From pairs to steps: texts become ids once, and an epoch is a pure function of seed and epoch.

No batch holds two copies of a candidate, nor two pairs of one query or group where that can be avoided: what would repeat
waits for a later batch. So a run can be taken up at any step without replaying the ones before. Pairs of several sources are
mixed by share; shares by temperature are those of Raffel 2020 (arXiv 1910.10683, section 3.5.2).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from nearfar.data.text import normalize_all
from nearfar.errors import BadInput
from nearfar.types import Pair

Key = TypeVar("Key", bound=Hashable)


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
    positive_groups: np.ndarray
    """The groups whose positive each document is (or a copy of one), ascending, document after document."""
    positive_group_offsets: np.ndarray
    """[D + 1] where each document's groups begin and end in `positive_groups`."""
    query_item: np.ndarray
    """[Q] the item of each query."""
    document_item: np.ndarray
    """[D] the item of each document."""
    source_of: np.ndarray
    """[P] the source of each pair, a place in `sources`."""
    sources: list[str]
    """The names of the sources, in order of appearance; pairs without one are of the source ''."""
    scores: np.ndarray
    """[P] float32, NaN where a pair has no score."""
    teacher_scores: np.ndarray
    """The teacher's scores, float32, of each pair's positive and then its hard negatives, pair after pair."""
    teacher_offsets: np.ndarray
    """[P + 1] where each pair's teacher scores begin and end; equal where it has none."""
    query_prompt: np.ndarray
    """[Q] the source whose prompt stands before the query; -1: the model's own prompt."""
    document_prompt: np.ndarray
    """[D] likewise."""

    def __len__(self) -> int:
        return len(self.query_of)

    @staticmethod
    def build(pairs: Sequence[Pair], query_prompts: Iterable[str] = (), document_prompts: Iterable[str] = ()) -> PairTable:
        """Number all texts of `pairs`, in order of appearance.

        The prompts name the sources that have one of their own: a text under two prompts is two texts and one item.
        """
        asked, told = frozenset(query_prompts), frozenset(document_prompts)
        sources: _Numbers[str] = _Numbers()
        of = [(p, sources[p.source or ""], p.source in asked, p.source in told) for p in pairs]
        queries: _Numbers[tuple[str, int]] = _Numbers()
        documents: _Numbers[tuple[str, int]] = _Numbers()
        items: _Numbers[str] = _Numbers()
        query_of = np.array([queries[p.query, s if own else -1] for p, s, own, _ in of], dtype=np.int64)
        positive_of = np.array([documents[p.positive, s if own else -1] for p, s, _, own in of], dtype=np.int64)
        negatives = [documents[text, s if own else -1] for p, s, _, own in of for text in p.negatives]
        query_item = np.array([items[text] for text in normalize_all([text for text, _ in queries.keys])], dtype=np.int64)
        document_item = np.array([items[text] for text in normalize_all([text for text, _ in documents.keys])], dtype=np.int64)
        links = (
            [("query", query_item[q])] + ([("group", p.group)] if p.group is not None else [])
            for q, p in zip(query_of, pairs, strict=True)
        )
        group_of = components(links)
        groups, group_offsets = _groups_of(document_item, document_item[positive_of], group_of)
        return PairTable(
            [text for text, _ in queries.keys],
            [text for text, _ in documents.keys],
            query_of,
            positive_of,
            np.array(negatives, dtype=np.int64),
            _offsets([len(p.negatives) for p in pairs]),
            group_of,
            groups,
            group_offsets,
            query_item,
            document_item,
            np.array([s for _, s, _, _ in of], dtype=np.int64),
            sources.keys,
            np.array([np.nan if p.score is None else p.score for p in pairs], dtype=np.float32),
            np.array([score for p in pairs for score in p.teacher_scores], dtype=np.float32),
            _offsets([len(p.teacher_scores) for p in pairs]),
            np.array([source for _, source in queries.keys], dtype=np.int64),
            np.array([source for _, source in documents.keys], dtype=np.int64),
        )


def _groups_of(document_item: np.ndarray, positives: np.ndarray, group_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The groups of the pairs whose positive is the item of each document [D]; `positives` [P] are items. Values and offsets."""
    items, groups = np.unique(np.stack([positives, group_of]), axis=1)
    starts, stops = np.searchsorted(items, document_item), np.searchsorted(items, document_item, "right")
    return groups[ranges(starts, stops)], _offsets((stops - starts).tolist())


def ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """All numbers from each start to its stop, one range after the other."""
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


class _Numbers(Generic[Key]):
    """Numbers for things in order of first appearance."""

    def __init__(self) -> None:
        self.numbers: dict[Key, int] = {}

    def __getitem__(self, key: Key) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    @property
    def keys(self) -> list[Key]:
        return list(self.numbers)


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


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


@dataclass(frozen=True)
class Mixture:
    """How pairs of several sources make an epoch. Shares are those of pairs seen; without `shares` every pair comes once."""

    one_source: bool = False
    """Whether every batch is of one source."""
    shares: Mapping[str, float] | None = None
    """By source, summing to 1."""


PLAIN = Mixture()
"""All pairs alike, whatever their source."""


def shares_by_weight(table: PairTable, weights: Mapping[str, float]) -> dict[str, float]:
    """The shares of sources weighed so. Raises `BadInput` unless exactly the sources of the pairs are named."""
    if set(weights) != set(table.sources):
        raise BadInput(
            f"mixture.weights: names {listed(weights)}, and the sources of the pairs are {listed(table.sources)}. Weigh each of them."
        )
    total = sum(weights.values())
    return {name: weights[name] / total for name in table.sources}


def shares_by_temperature(table: PairTable, temperature: float) -> dict[str, float]:
    """Shares that grow as size ** (1 / temperature): at 1 as large as the sources are, above 1 the small ones come more often."""
    sizes = np.bincount(table.source_of, minlength=len(table.sources)) / len(table)
    shares = sizes ** (1 / temperature)
    return dict(zip(table.sources, (shares / shares.sum()).tolist(), strict=True))


def epoch_batches(
    table: PairTable, batch_size: int, *, seed: int, epoch: int, mixture: Mixture = PLAIN, groups_apart: bool = True
) -> list[np.ndarray]:
    """The batches (arrays of pair numbers) of one epoch, in an order given by (seed, epoch) alone.

    Without shares an epoch is every pair once. With shares it is as many pairs as there are, of each source its share: a source goes round
    its pairs, each round in an order of its own, and every epoch goes on where the one before stopped. So a source whose share is below its
    size takes several epochs to be seen through, and one whose share is above comes back within an epoch.

    No full batch holds two pairs of one candidate text or of one group: a pair that would repeat waits for a later batch. What
    waits at the end joins into batches up to half as large again, whose repeats the targets leave out. With one source a batch
    this holds for each source, and the batches of all sources come in an order by chance. Without `groups_apart` pairs of one group may meet: for
    losses that take them for each other's positives. Linear in the pairs.
    Raises `BadInput` for a batch size below 2, and for a source of one pair that is to make batches of its own.
    """
    if batch_size < 2:
        raise BadInput(f"batch_size: {batch_size} leaves no negatives. Use at least 2 (more is better).")
    if not mixture.one_source and mixture.shares is None:
        return _batches(table, np.random.default_rng([seed, epoch]).permutation(len(table)), batch_size, groups_apart)
    parts = [_part(table, number, seed=seed, epoch=epoch, mixture=mixture) for number in range(len(table.sources))]
    # one more number than any source has: the order of the whole
    order = np.random.default_rng([seed, epoch, len(parts)])
    if not mixture.one_source:
        together = np.concatenate(parts)
        return _batches(table, together[order.permutation(len(together))], batch_size, groups_apart)
    batches = [batch for part in parts for batch in _batches(table, part, batch_size, groups_apart)]
    return [batches[i] for i in order.permutation(len(batches))]


def _part(table: PairTable, source: int, *, seed: int, epoch: int, mixture: Mixture) -> np.ndarray:
    """The pairs of one source in one epoch, in order."""
    own, name = np.flatnonzero(table.source_of == source), table.sources[source]
    if mixture.one_source and len(own) < 2:
        raise BadInput(
            f"source {name!r}: {len(own)} pair to train on, which alone in a batch has no negatives. Give it more pairs, or mix the "
            "sources (--set mixture.one_source=false)."
        )
    if mixture.shares is None:
        return own[np.random.default_rng([seed, epoch, source]).permutation(len(own))]
    count = max(2, round(mixture.shares[name] * len(table)))
    start, stop = epoch * count, (epoch + 1) * count
    rounds = [
        own[np.random.default_rng([seed, number, source]).permutation(len(own))]
        for number in range(start // len(own), -(-stop // len(own)))
    ]
    return np.concatenate(rounds)[start % len(own) :][:count]


def _batches(table: PairTable, order: np.ndarray, batch_size: int, groups_apart: bool) -> list[np.ndarray]:
    """These pairs in this order; what would repeat in a batch waits for a later one."""
    item = table.document_item[table.positive_of].tolist()
    group = (table.group_of if groups_apart else np.arange(len(table))).tolist()
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
    """Batches under half size or of one pair (what waited at the end) join into full ones; a small remainder joins the last batch."""
    least = max(2, -(-batch_size // 2))
    full = [batch for batch in batches if len(batch) >= least]
    small = [batch for batch in batches if len(batch) < least]
    if small:
        pairs = np.concatenate(small)
        if full and len(pairs) < least:
            full[-1] = np.concatenate([full[-1], pairs])
        else:
            full += np.array_split(pairs, max(1, min(round(len(pairs) / batch_size), len(pairs) // 2)))
    return full


def listed(names: Iterable[str]) -> str:
    """The first of some names, quoted, and how many more there are."""
    found = sorted(names)
    return ", ".join(repr(name) for name in found[:8]) + (f" and {len(found) - 8:,} more" if len(found) > 8 else "")

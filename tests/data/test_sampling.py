"""Sampling, splitting, collating: laws that hold for any pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.collate import collate
from nearfar.data.sampling import PairTable, epoch_batches
from nearfar.data.split import split_pairs
from nearfar.data.text import normalize
from nearfar.errors import BadInput
from nearfar.types import Pair

import reference

WORD = st.sampled_from(["a", "A ", "b", "c", "d", "e", "f", "g"])
PAIRS = st.lists(
    st.builds(Pair, WORD, WORD, st.lists(WORD, max_size=3).map(tuple), st.none() | st.sampled_from("xyz")),
    min_size=2,
    max_size=25,
)


class Numbers:
    """Inputs that remember which rows were selected."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> "Numbers":
        return Numbers(self.rows[rows])


@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS, size=st.integers(2, 8), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_pair_once_and_is_a_function_of_seed_and_epoch(
    pairs: list[Pair], size: int, seed: int, epoch: int
):
    table = PairTable.build(pairs)
    batches = epoch_batches(table, size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(pairs)))
    again = epoch_batches(PairTable.build(pairs), size, seed=seed, epoch=epoch)
    assert [b.tolist() for b in batches] == [b.tolist() for b in again]


def test_epochs_and_seeds_differ():
    table = PairTable.build([Pair(str(i), f"p{i}") for i in range(50)])
    orders = {tuple(np.concatenate(epoch_batches(table, 10, seed=s, epoch=e)).tolist()) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 99), distinct=st.integers(40, 80))
def test_no_batch_holds_two_copies_of_a_candidate_or_group_while_enough_others_wait(seed: int, distinct: int):
    rng = np.random.default_rng(seed)
    pairs = [Pair(f"q{i}", f"p{i % distinct}", (), f"g{rng.integers(40)}") for i in range(2 * distinct)]
    table = PairTable.build(pairs)
    batches = epoch_batches(table, 8, seed=seed, epoch=0)
    for batch in batches:
        if len(batch) == 8:
            items, groups = table.document_item[table.positive_of[batch]], table.group_of[batch]
            tail = batch is batches[-1] or batch is batches[-2]
            assert tail or (len(set(items.tolist())) == 8 and len(set(groups.tolist())) == 8)


def test_a_batch_of_one_is_refused():
    with pytest.raises(BadInput, match="batch_size: 1"):
        epoch_batches(PairTable.build([Pair("a", "b")]), 1, seed=0, epoch=0)


@settings(max_examples=150, deadline=None)
@given(pairs=PAIRS, data=st.data())
def test_a_batch_says_the_same_as_the_pairs_read_one_by_one(pairs: list[Pair], data: st.DataObject):
    table = PairTable.build(pairs)
    rows = np.array(data.draw(st.permutations(range(len(pairs))))[: data.draw(st.integers(1, len(pairs)))])
    batch = collate(table, rows, Numbers(np.arange(len(table.queries))), Numbers(np.arange(len(table.documents))))
    queries = [table.queries[i] for i in batch.queries.rows]  # type: ignore[attr-defined]
    columns = [table.documents[i] for i in batch.candidates.rows]  # type: ignore[attr-defined]
    assert queries == [pairs[r].query for r in rows]
    assert len(set(columns)) == len(columns)
    assert set(columns) == {text for r in rows for text in (pairs[r].positive, *pairs[r].negatives)}

    group = table.group_of[rows]
    positive = torch.arange(len(rows)) if batch.targets.positive is None else batch.targets.positive
    for i, r in enumerate(rows):
        own = columns.index(pairs[r].positive)
        assert int(positive[i]) == own
        for j, text in enumerate(columns):
            # a column is brought by the first row whose positive it is
            bringer = next((k for k, s in enumerate(rows) if pairs[s].positive == text), None)
            known = j != own and (
                (bringer is not None and group[bringer] == group[i])
                or normalize(text) == normalize(pairs[r].positive)
                or normalize(text) == normalize(pairs[r].query)
            )
            assert reference.left_out(batch.targets, i, j, own) == known


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99))
def test_no_text_and_no_group_is_on_both_sides_of_a_split(seed: int):
    rng = np.random.default_rng(seed)
    pairs = [Pair(f"q{rng.integers(150)}", f"p{i}", (), f"g{i // 2}") for i in range(200)]
    sides = split_pairs(pairs, 30, seed=seed)
    assert sorted(map(repr, [*sides.train, *sides.held_out])) == sorted(map(repr, pairs))
    assert 15 <= len(sides.held_out) <= 30
    for of in (lambda p: normalize(p.query), lambda p: normalize(p.positive), lambda p: p.group):
        assert not {of(p) for p in sides.train} & {of(p) for p in sides.held_out}


def test_pairs_that_all_hang_together_cannot_be_split():
    with pytest.raises(BadInput, match=r"hang together .* in 1 parts"):
        split_pairs([Pair(f"q{i}", f"p{i}", (), "one") for i in range(10)], 3)

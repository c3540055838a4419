"""Sampling, splitting, collating: laws that hold for any pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.collate import collate
from nearfar.data.sampling import Mixture, PairTable, epoch_batches, shares_by_temperature, shares_by_weight
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
            # a column is brought by the first row whose positive it is; a hard negative alone is of a group whose positive it is anywhere
            bringer = next((k for k, s in enumerate(rows) if pairs[s].positive == text), None)
            theirs = {int(g) for g, p in zip(table.group_of, pairs, strict=True) if normalize(p.positive) == normalize(text)}
            if bringer is None and len(theirs & set(group.tolist())) > 1 and group[i] in theirs:
                continue  # one of several groups is said
            known = j != own and (
                (group[i] in theirs if bringer is None else group[bringer] == group[i])
                or normalize(text) == normalize(pairs[r].positive)
                or normalize(text) == normalize(pairs[r].query)
            )
            assert reference.left_out(batch.targets, i, j, own) == known


def test_a_hard_negative_of_one_pair_is_none_of_a_query_whose_positive_it_is_elsewhere_in_the_table():
    pairs = [
        Pair("a", "x", ("Y  2",)),
        Pair("b", "y", (), "g"),
        Pair("c", "z", (), "g"),
        Pair("other", "y 2"),
        Pair("c", "y 2"),
        Pair("d", "w"),
    ]
    table = PairTable.build(pairs)
    inputs = Numbers(np.arange(len(table.queries))), Numbers(np.arange(len(table.documents)))
    targets = collate(table, np.array([0, 1, 2, 5]), *inputs).targets
    column = [table.documents[i] for i in collate(table, np.array([0, 1, 2, 5]), *inputs).candidates.rows].index("Y  2")  # type: ignore[attr-defined]
    assert [reference.left_out(targets, i, column, i) for i in range(4)] == [False, True, True, False]
    lone = collate(table, np.array([0, 2]), *inputs).targets
    assert [reference.left_out(lone, i, 2, i) for i in range(2)] == [False, True]
    assert collate(table, np.array([0, 5]), *inputs).targets.row_groups is None


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


MIXED = st.lists(
    st.builds(
        Pair,
        WORD,
        WORD,
        st.just(()),
        st.none() | st.sampled_from("xyz"),
        st.none(),
        st.none() | st.sampled_from(["one", "two"]),
    ),
    min_size=2,
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(pairs=MIXED, size=st.integers(2, 8), seed=st.integers(0, 99), epoch=st.integers(0, 3), one=st.booleans())
def test_a_mixture_without_shares_holds_every_pair_once_and_its_batches_keep_to_their_source(
    pairs: list[Pair], size: int, seed: int, epoch: int, one: bool
):
    table = PairTable.build(pairs)
    mixture = Mixture(one_source=one)
    if one and min(np.bincount(table.source_of)) < 2:
        with pytest.raises(BadInput, match=r"1 pair to train on"):
            epoch_batches(table, size, seed=seed, epoch=epoch, mixture=mixture)
        return
    batches = epoch_batches(table, size, seed=seed, epoch=epoch, mixture=mixture)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(pairs)))
    if one:
        assert all(len(set(table.source_of[batch].tolist())) == 1 and len(batch) >= 2 for batch in batches)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), weight=st.floats(0.1, 9), one=st.booleans(), size=st.integers(2, 12))
def test_with_shares_a_source_goes_round_its_pairs_and_each_epoch_holds_its_share(
    seed: int, weight: float, one: bool, size: int
):
    pairs = [Pair(f"q{i}", f"p{i}", source="small" if i < 20 else "large") for i in range(100)]
    table = PairTable.build(pairs)
    mixture = Mixture(one, shares_by_weight(table, {"small": weight, "large": 1.0}))
    wanted = max(2, round(100 * weight / (weight + 1)))
    seen = np.zeros(100, dtype=int)
    for epoch in range(4):
        batches = epoch_batches(table, size, seed=seed, epoch=epoch, mixture=mixture)
        again = epoch_batches(PairTable.build(pairs), size, seed=seed, epoch=epoch, mixture=mixture)
        assert [b.tolist() for b in batches] == [b.tolist() for b in again]
        rows = np.concatenate(batches)
        assert int((rows < 20).sum()) == wanted
        seen += np.bincount(rows, minlength=100)
        for part in (seen[:20], seen[20:]):
            assert part.max() - part.min() <= 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), weight=st.floats(0.2, 5), one=st.booleans(), epoch=st.integers(0, 2))
def test_no_full_batch_of_a_mixture_holds_two_copies_of_a_candidate_or_two_of_a_group(
    seed: int, weight: float, one: bool, epoch: int
):
    rng = np.random.default_rng(seed)
    pairs = [
        Pair(f"q{i}", f"p{i % 60}", (), f"g{rng.integers(50)}", source=("a", "b")[int(rng.integers(2))]) for i in range(160)
    ]
    table = PairTable.build(pairs)
    mixture = Mixture(one, shares_by_weight(table, {"a": weight, "b": 1.0}))
    batches = epoch_batches(table, 8, seed=seed, epoch=epoch, mixture=mixture)
    # what waited at the end is shared out among the last batches of its source, whose repeats the targets leave out
    full = [b for b in batches if len(b) == 8]
    whole = [b for b in full if len(set(table.document_item[table.positive_of[b]].tolist())) == 8]
    groups = [b for b in whole if len(set(table.group_of[b].tolist())) == 8]
    assert len(full) - len(groups) <= (2 if one else 1) * 2
    assert len(groups) >= len(batches) // 2


def test_shares_by_temperature_go_from_as_large_to_all_alike():
    table = PairTable.build([Pair(f"q{i}", f"p{i}", source="s" if i < 10 else "l") for i in range(100)])
    assert shares_by_temperature(table, 1.0) == pytest.approx({"s": 0.1, "l": 0.9})
    assert shares_by_temperature(table, 2.0) == pytest.approx({"s": 0.25, "l": 0.75})
    assert shares_by_temperature(table, 1e9) == pytest.approx({"s": 0.5, "l": 0.5})
    with pytest.raises(BadInput, match=r"names 's', and the sources of the pairs are 'l', 's'"):
        shares_by_weight(table, {"s": 1.0})


def test_pairs_of_one_source_or_none_make_the_batches_they_always_made():
    pairs = [Pair(f"q{i}", f"p{i}") for i in range(50)]
    for found in (pairs, [Pair(p.query, p.positive, source="a") for p in pairs]):
        batches = epoch_batches(PairTable.build(found), 8, seed=3, epoch=1)
        assert np.concatenate(batches)[:8].tolist() == np.random.default_rng([3, 1]).permutation(50)[:8].tolist()


def test_a_batch_knows_scores_negatives_teacher_and_source_of_its_pairs():
    pairs = [
        Pair("a", "p", ("x", "y"), None, 0.5, "s", (3.0, 2.0, 1.0)),
        Pair("b", "y", ("p",), None, 0.25, "s", (5.0, 4.0)),
        Pair("c", "z", (), None, None, "t"),
    ]
    table = PairTable.build(pairs)
    inputs = Numbers(np.arange(len(table.queries))), Numbers(np.arange(len(table.documents)))
    facts = collate(table, np.array([0, 1]), *inputs).facts
    assert facts is not None
    columns = [table.documents[i] for i in facts.candidate_ids]
    assert [[columns[j] if j >= 0 else None for j in row] for row in facts.negatives.tolist()] == [["x", "y"], ["p", None]]
    assert facts.scores is not None
    assert facts.scores.tolist() == [0.5, 0.25]
    assert facts.teacher_scores is not None
    assert facts.teacher_scores.nan_to_num(-1).tolist() == [[3, 2, 1], [5, 4, -1]]
    assert facts.source == "s"
    mixed = collate(table, np.array([0, 2]), *inputs).facts
    assert mixed is not None
    assert (mixed.scores, mixed.teacher_scores, mixed.source) == (None, None, None)


def test_a_text_under_the_prompts_of_two_sources_is_two_texts_and_one_item():
    pairs = [Pair("a", "p", source="s"), Pair("a", "p", source="t"), Pair("a", "p", source="u")]
    table = PairTable.build(pairs, query_prompts=["s"], document_prompts=[])
    assert table.queries == ["a", "a"]
    assert table.query_of.tolist() == [0, 1, 1]
    assert table.query_prompt.tolist() == [0, -1]
    assert len(set(table.group_of.tolist())) == 1
    assert table.documents == ["p"]

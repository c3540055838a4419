"""Laws of the indexes of vectors: exact equals argsort, approximate nearly does, and both refuse what they cannot compare."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.errors import BadInput, Mismatch
from nearfar.index import ApproximateIndex, ExactIndex, Graph, ModelIdentity

MODEL = ModelIdentity("near-model", "sha256:" + "ab" * 32)
both = pytest.mark.parametrize("make", [ExactIndex, ApproximateIndex])


def units(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def named(count: int) -> list[str]:
    return [f"d{i}" for i in range(count)]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found.tolist(), true.tolist(), strict=True)]))


def test_the_exact_index_equals_a_stable_argsort():
    rng = np.random.default_rng(5)
    vectors = rng.integers(-2, 3, size=(300, 6)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(40, 6)).astype(np.float32)
    index = ExactIndex(6, MODEL)
    index.add(named(300), named(300), vectors)
    hits = index.search(queries, 25)
    scores = queries @ vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :25]
    assert np.array_equal(hits.ids, order)
    assert np.array_equal(hits.scores, np.take_along_axis(scores, order, axis=1))


@pytest.fixture(scope="module")
def pair_of_indexes() -> tuple[ExactIndex, ApproximateIndex, np.ndarray]:
    vectors, queries = units(4000, 48), units(100, 48, seed=1)
    exact, near = ExactIndex(48, MODEL), ApproximateIndex(48, MODEL)
    for index in (exact, near):
        index.add(named(4000), named(4000), vectors)
    return exact, near, queries


def test_the_approximate_index_finds_nearly_what_the_exact_one_finds(pair_of_indexes):
    exact, near, queries = pair_of_indexes
    assert recall(near.search(queries, 10).ids, exact.search(queries, 10).ids) >= 0.95


def test_approximate_scores_are_true_and_fall(pair_of_indexes):
    exact, near, queries = pair_of_indexes
    hits = near.search(queries, 10)
    every = exact.search(queries, len(exact))
    truth = np.empty((100, len(exact)), dtype=np.float32)
    np.put_along_axis(truth, every.ids, every.scores, axis=1)
    assert np.allclose(hits.scores, np.take_along_axis(truth, hits.ids, axis=1), atol=1e-6)
    assert (np.diff(hits.scores, axis=1) <= 0).all()


def test_the_approximate_index_fills_any_k_up_to_its_size(pair_of_indexes):
    _, near, queries = pair_of_indexes
    hits = near.search(queries[:2], 4500)
    assert [sorted(row[:4000]) == list(range(4000)) for row in hits.ids.tolist()] == [True, True]
    assert (hits.ids[:, 4000:] == -1).all()


def test_every_document_of_the_approximate_index_finds_itself_through_all_changes():
    vectors, names = units(3000, 32, seed=2), named(3000)
    index = ApproximateIndex(32, MODEL)
    index.add(names[:2000], names[:2000], vectors[:2000])
    for start in range(2000, 3000, 100):
        index.remove(names[start - 2000 : start - 1900])
        index.add(names[start : start + 100], names[start : start + 100], vectors[start : start + 100])
    assert list(index.keys) == names[1000:]
    assert index.search(vectors[1000:], 1).ids[:, 0].tolist() == list(range(2000))


def test_recall_stays_after_most_documents_are_removed_and_others_added():
    vectors, queries = units(2000, 32), units(50, 32, seed=1)
    exact, near = ExactIndex(32, MODEL), ApproximateIndex(32, MODEL)
    for index in (exact, near):
        index.add(named(1500), named(1500), vectors[:1500])
        index.remove(named(1500)[:1100])
        index.add(named(2000)[1500:], named(2000)[1500:], vectors[1500:])
        index.remove(named(2000)[1500:1600])
    hits = near.search(queries, 10)
    assert recall(hits.ids, exact.search(queries, 10).ids) >= 0.95
    assert len({near.keys[i] for i in hits.ids.ravel()} - set(named(2000)[1100:1500] + named(2000)[1600:])) == 0


def test_a_query_may_have_any_length_for_the_order(pair_of_indexes):
    _, near, queries = pair_of_indexes
    assert np.array_equal(near.search(queries, 5).ids, near.search(4 * queries, 5).ids)


def test_the_same_additions_give_the_same_hits():
    def hits() -> np.ndarray:
        index = ApproximateIndex(24, MODEL, graph=Graph(expansion_search=16, connectivity=4))
        index.add(named(1500), named(1500), units(1500, 24))
        return index.search(units(50, 24, seed=1), 5).ids

    assert np.array_equal(hits(), hits())


@both
def test_another_width_is_a_mismatch_that_says_both(make):
    index = make(4, MODEL)
    with pytest.raises(Mismatch, match=r"\(2, 5\).*rows of 4 numbers"):
        index.add(["a", "b"], ["a", "b"], units(2, 5))
    with pytest.raises(Mismatch, match=r"\(3, 5\).*rows of 4 numbers"):
        index.search(units(3, 5))
    with pytest.raises(Mismatch, match=r"\(4,\)"):
        index.search(units(1, 4)[0])
    assert len(index) == 0


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_row_that_is_not_finite_is_named(make, bad):
    index, rows = make(4, MODEL), units(3, 4).astype(np.float64)
    rows[1, 2] = bad
    with pytest.raises(BadInput, match="row 1 \\('b'\\)"):
        index.add(["a", "b", "c"], ["", "", ""], rows)
    with pytest.raises(BadInput, match="queries: row 1"):
        index.search(rows)
    assert len(index) == 0


@both
def test_a_refused_upsert_loses_nothing(make):
    index = make(4, MODEL)
    index.add(["a", "b"], ["A", "B"], units(2, 4))
    with pytest.raises(BadInput, match="not finite"):
        index.upsert(["a"], ["new"], np.full((1, 4), np.nan))
    assert (list(index.keys), list(index.documents)) == (["a", "b"], ["A", "B"])


@both
def test_fewer_vectors_than_keys_are_refused(make):
    with pytest.raises(BadInput, match="1 vectors for 2 keys"):
        make(4, MODEL).add(["a", "b"], ["", ""], units(1, 4))


@both
def test_changing_the_callers_array_changes_no_index(make):
    index, rows = make(4, MODEL), units(3, 4)
    index.add(["a", "b", "c"], ["", "", ""], rows)
    before = index.search(units(2, 4, seed=1), 3).scores
    rows[:] = 0
    assert np.array_equal(index.search(units(2, 4, seed=1), 3).scores, before)


@both
def test_another_model_is_refused_with_both_named_and_the_way_out(make):
    index = make(4, MODEL)
    index.check_model(MODEL.fingerprint)
    with pytest.raises(Mismatch, match=r"'near-model' \(sha256:abab.*far-model \(sha256:cd.*index the documents again"):
        index.check_model("sha256:" + "cd" * 32, "far-model")


def test_the_approximate_index_refuses_rows_that_are_not_of_unit_length():
    index = ApproximateIndex(4, MODEL)
    with pytest.raises(BadInput, match=r"row 1 \('b'\) has length 2"):
        index.add(["a", "b"], ["", ""], units(2, 4) * np.array([[1], [2]]))
    index.add(["a", "b"], ["", ""], units(2, 4) * np.array([[1], [0]]))
    assert index.search(units(1, 4), 2).ids[0].tolist() in ([0, 1], [1, 0])

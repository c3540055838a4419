"""Top-k equals a stable sort of the exact scores, whatever the slab and whatever the scan multiplies in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import BadInput, Mismatch
from nearfar.similarity import nearest, topk
from nearfar.similarity.nearest import _largest, _ordered, _Scan

PRECISIONS = st.sampled_from([None, "float32", "bfloat16"])


def by_sorting(q, c, k, exclude=None):
    """Ids and scores of every row, from float64 scores rounded to float32 and sorted stably."""
    scores = (q.astype(np.float64) @ c.astype(np.float64).T).astype(np.float32)
    for i, j in enumerate(exclude if exclude is not None else ()):
        if j >= 0:
            scores[i, j] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[(j, scores[i, j]) for j in order[i] if np.isfinite(scores[i, j])] for i in range(len(q))]


def check(hits, expected, k):
    for i, best in enumerate(expected):
        assert hits.ids[i].tolist() == [j for j, _ in best] + [-1] * (k - len(best))
        assert hits.scores[i, : len(best)].tolist() == [score for _, score in best]
        assert np.isneginf(hits.scores[i, len(best) :]).all()


@settings(max_examples=80, deadline=None)
@given(
    b=st.integers(0, 6),
    n=st.integers(0, 12),
    k=st.integers(1, 15),
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 7),
    leave=st.booleans(),
    precision=PRECISIONS,
)
def test_topk_equals_a_stable_argsort_ties_and_exclusions_included(b, n, k, seed, rows, leave, precision):
    rng = np.random.default_rng(seed)
    q, c = (rng.integers(-1, 2, size=(count, 2)).astype(np.float32) for count in (b, n))  # few values: many ties
    exclude = rng.integers(-1, n, size=b) if leave and n else None
    check(topk(q, c, k, rows_per_slab=rows, exclude=exclude, precision=precision), by_sorting(q, c, k, exclude), k)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 700),
    d=st.integers(1, 40),
    k=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1.0, 1e-2, 1e-4]),
    size=st.sampled_from([1.0, 1e-12, 1e12]),
    copies=st.booleans(),
    precision=PRECISIONS,
)
def test_scores_closer_than_the_scan_can_tell_are_still_put_in_exact_order(n, d, k, seed, spread, size, copies, precision):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(3, d))
    c = rng.normal(size=(1, d)) + spread * rng.normal(size=(n, d))
    c = c[rng.integers(0, max(1, n // 3), n)] if copies else c
    q, c = q.astype(np.float32), (size * c).astype(np.float32)
    check(topk(q, c, k, precision=precision), by_sorting(q, c, k), k)


def test_all_columns_alike_come_in_order_of_column():
    row = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32)
    hits = topk(row, np.repeat(row, 3000, axis=0), 5, precision="bfloat16")
    assert hits.ids.tolist() == [[0, 1, 2, 3, 4]]


def test_panels_of_columns_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    q, c = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(1000, 8)).astype(np.float32)
    whole = topk(q, c, 30, exclude=np.array([0, 400, 999, -1, 7]))
    monkeypatch.setattr("nearfar.similarity.nearest.PANEL", 170)
    parts = topk(q, c, 30, exclude=np.array([0, 400, 999, -1, 7]), precision="bfloat16")
    assert (whole.ids == parts.ids).all()
    assert (whole.scores == parts.scores).all()


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 900), m=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_the_largest_of_a_slab_are_those_of_a_sort(n, m, seed):
    m = min(m, n)
    slab = torch.from_numpy(np.random.default_rng(seed).integers(0, 50, size=(3, n)).astype(np.float32))
    found = _largest(slab, m)
    assert torch.equal(found.values, slab.sort(dim=1, descending=True).values[:, :m])
    assert torch.equal(slab.gather(1, found.columns), found.values)
    assert all(len(set(row)) == m for row in found.columns.tolist())


@settings(max_examples=60, deadline=None)
@given(d=st.integers(1, 500), seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1.0, 1e-3, 1e3]))
def test_no_scanned_score_is_farther_from_the_exact_one_than_the_bound(d, seed, size):
    rng = np.random.default_rng(seed)
    q = torch.from_numpy(rng.normal(size=(4, d)).astype(np.float32))
    c = torch.from_numpy((size * rng.normal(size=(50, d)) * rng.lognormal(size=(50, 1))).astype(np.float32))
    scan = _Scan(q, c, torch.bfloat16, None, None)
    rows = torch.arange(4)
    found = scan.largest(rows, 50)
    exact = (q.double() @ c.double().T).gather(1, found.columns)
    for place in range(50):
        scanned = found.values[:, place : place + 1]
        assert bool(((scanned - exact[:, place : place + 1]).abs() <= scan.bound(rows, scanned)).all())


def test_bad_arguments_are_refused():
    with pytest.raises(BadInput, match="k: expected"):
        topk(np.eye(2), np.eye(2), 0)
    with pytest.raises(Mismatch, match="widths"):
        topk(np.eye(2), np.eye(3), 1)
    with pytest.raises(BadInput, match="precision: found 'half'"):
        topk(np.eye(2), np.eye(2), 1, precision="half")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(wrong):
    rows = np.ones((4, 3), dtype=np.float32)
    broken = rows.copy()
    broken[2, 1] = wrong
    with pytest.raises(BadInput, match="candidates: row 2 is not finite"):
        topk(rows, broken, 1)
    with pytest.raises(BadInput, match="queries: row 2 is not finite"):
        topk(broken, rows, 1)


@pytest.mark.parametrize(("apart", "scans"), [(0.02, 2), (1e-4, 3)])
def test_rows_that_nearly_fall_together_are_not_all_scored_again(monkeypatch, apart, scans):
    rng = np.random.default_rng(0)
    q, c = ((np.eye(64)[0] + apart * rng.standard_normal((count, 64))).astype(np.float32) for count in (50, 4_000))
    scored = []

    def counting(scan, rows, columns, could, k):
        scored.append((scan.dtype, int(could.sum())))
        return _ordered(scan, rows, columns, could, k)

    monkeypatch.setattr(nearest, "_ordered", counting)
    check(topk(q, c, 20, precision="bfloat16"), by_sorting(q, c, 20), 20)
    assert [dtype for dtype, _ in scored] == [torch.bfloat16, torch.float32, torch.float64][:scans]
    # the first scan keeps 4 k + 32 a row, each finer one k + 8
    assert sum(count for _, count in scored) <= 50 * (4 * 20 + 32 + (scans - 1) * (20 + 8))

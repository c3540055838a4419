"""Top-k equals a stable sort of everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import BadInput, Mismatch
from nearfar.similarity import topk


@settings(max_examples=80, deadline=None)
@given(
    b=st.integers(0, 6),
    n=st.integers(0, 12),
    k=st.integers(1, 15),
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 7),
    leave=st.booleans(),
)
def test_topk_equals_a_stable_argsort_ties_and_exclusions_included(b: int, n: int, k: int, seed: int, rows: int, leave: bool):
    rng = np.random.default_rng(seed)
    q, c = (rng.integers(-1, 2, size=(count, 2)).astype(np.float32) for count in (b, n))  # few values: many ties
    exclude = rng.integers(-1, n, size=b) if leave and n else None
    scores = q @ c.T
    if exclude is not None:
        for i, j in enumerate(exclude):
            if j >= 0:
                scores[i, j] = -np.inf
    hits = topk(q, c, k, rows_per_slab=rows, exclude=exclude)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    for i in range(b):
        expected = [j for j in order[i] if np.isfinite(scores[i, j])]
        assert hits.ids[i].tolist() == expected + [-1] * (k - len(expected))
        assert hits.scores[i, : len(expected)].tolist() == scores[i, expected].tolist()
        assert np.isneginf(hits.scores[i, len(expected) :]).all()


def test_bad_arguments_are_refused():
    with pytest.raises(BadInput, match="k: expected"):
        topk(np.eye(2), np.eye(2), 0)
    with pytest.raises(Mismatch, match="widths"):
        topk(np.eye(2), np.eye(3), 1)

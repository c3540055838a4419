"""Intervals of shares: Wilson's as scipy has it, and sums of strata that cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nearfar.errors import BadInput
from nearfar.metrics import share_interval, stratified_interval


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_of_a_share_is_wilsons(counted):
    found = share_interval(*counted)
    expected = stats.binomtest(*counted).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_one_stratum_is_the_plain_interval_and_an_empty_one_knows_nothing():
    assert stratified_interval([3.0], [2], [10]) == pytest.approx(share_interval(2, 10))
    assert stratified_interval([1.0], [0], [0]) == (0.5, 0.0, 1.0)


def test_the_interval_of_strata_covers():
    rng = np.random.default_rng(0)
    weights, truth, totals = np.array([0.1, 0.3, 0.6]), np.array([0.6, 0.2, 0.02]), (15, 15, 15)
    covered = 0
    for _ in range(1_000):
        found = stratified_interval(weights.tolist(), [int(rng.binomial(15, p)) for p in truth], totals)
        covered += found.low <= weights @ truth <= found.high
    assert covered >= 930


def test_what_is_no_share_is_refused():
    with pytest.raises(BadInput, match="expected a number in 0"):
        share_interval(4, 3)
    with pytest.raises(BadInput, match="stratum"):
        stratified_interval([], [], [])

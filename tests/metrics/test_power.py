"""How many queries show a difference: by what it promises, and its limits."""

import math

import numpy as np
import pytest

from nearfar.errors import BadInput
from nearfar.metrics import bootstrap_interval, queries_needed


def test_with_as_many_queries_as_needed_four_tests_in_five_show_the_difference():
    rng = np.random.default_rng(0)
    found = bootstrap_interval(rng.normal(0.05, 0.3, size=4000))
    needed = queries_needed(0.05, found.low, found.high, 4000)
    assert needed is not None
    draws = rng.normal(0.05, 0.3, size=(4000, needed))
    z = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(needed)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.04)


def test_half_the_difference_needs_four_times_the_queries_and_none_cannot_be_shown():
    one, half = queries_needed(0.1, 0.0, 0.2, 100), queries_needed(0.05, -0.05, 0.15, 100)
    assert one is not None
    assert half == pytest.approx(4 * one, abs=4)
    assert queries_needed(-0.1, -0.2, 0.0, 100) == one
    assert queries_needed(0.0, -0.1, 0.1, 100) is None


@pytest.mark.parametrize(("low", "high", "queries"), [(0.1, 0.0, 10), (0.0, 0.1, 0)])
def test_what_is_no_measurement_is_refused(low, high, queries):
    with pytest.raises(BadInput, match="low <= high"):
        queries_needed(0.1, low, high, queries)

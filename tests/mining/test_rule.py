"""The rule: what may be a negative, which are taken, and that the fast way equals plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import rules

from nearfar.errors import BadConfig
from nearfar.mining import NegativeRule, choose
from nearfar.mining.rule import REASONS, draw_numbers, judge, limit, text_numbers

from reference import choose_negatives


@settings(max_examples=200, deadline=None)
@given(rule=rules(), seed=st.integers(0, 999), width=st.integers(1, 15), rows=st.integers(1, 6))
def test_choosing_equals_plain_loops_whatever_the_rule(rule, seed, width, rows):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-8, 9, (rows, width)) / 8).astype(np.float32)
    positives = (rng.integers(-8, 9, rows) / 8).astype(np.float32)
    present, taken, allowed = rng.random((rows, width)) < 0.9, rng.random((rows, width)) < 0.1, rng.random((rows, width)) < 0.7
    counts = rng.integers(0, rule.count + 1, rows)
    draws = rng.integers(0, 2**64, (rows, width), dtype=np.uint64)
    asked = np.zeros((rows, width), dtype=int)

    def allows(at, places):
        np.add.at(asked, (at, places), 1)
        return allowed[at, places]

    found = choose(scores, positives, present, rule, counts=counts, draws=draws, taken=taken, allows=allows)
    expected = choose_negatives(scores, positives, present, rule, counts, draws, taken, allowed)
    assert [[p for p in row if p >= 0] for row in found.places.tolist()] == expected
    assert asked.max() <= 1
    assert (found.refused == ((asked == 1) & ~allowed)).all()


@settings(max_examples=100, deadline=None)
@given(rule=rules(), seed=st.integers(0, 999))
def test_a_rule_that_drops_more_moves_no_rank(rule, seed):
    """What a stricter rule takes keeps the place it had, and what it drops drops nothing else."""
    rng = np.random.default_rng(seed)
    scores, positives = rng.normal(size=(4, 12)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    present = np.ones((4, 12), dtype=bool)
    loose = replace(rule, below_positive=None, margin=None, max_score=None, min_score=None)
    strict, before = judge(scores, positives, present, rule), judge(scores, positives, present, loose)
    assert (before[strict == 0] == 0).all()
    assert ((before == REASONS.index("skip_top")) == (strict == REASONS.index("skip_top"))).all()


@pytest.mark.parametrize(
    ("positive", "share", "expected"), [(0.8, 0.95, 0.76), (0.0, 0.95, 0.0), (-0.2, 0.95, -0.21), (-0.2, 1, -0.2)]
)
def test_the_relative_limit_is_the_papers_for_a_positive_score_and_never_above_the_positive(positive, share, expected):
    found = limit(np.array([positive], np.float32), share)[0]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found <= np.float32(positive)


def test_a_draw_depends_on_seed_query_and_document_alone():
    queries, documents = text_numbers(["a", "b"]), text_numbers(["x", "y", "z"])
    whole = draw_numbers(3, queries, np.broadcast_to(documents, (2, 3)))
    turned = draw_numbers(3, queries[::-1], np.broadcast_to(documents[[2, 0]], (2, 2)))
    assert (turned[::-1] == whole[:, [2, 0]]).all()
    assert len(np.unique(whole)) == 6
    assert (draw_numbers(4, queries, np.broadcast_to(documents, (2, 3))) != whole).all()
    assert (text_numbers([" A ", "b"]) == queries).all()


def test_softmax_draws_in_proportion_to_the_exponential_of_the_score():
    """10,000 queries, one place each: within four standard deviations of exp(s / T) / sum, at a seed."""
    scores = np.array([[0.0, 0.1, 0.2]], np.float32).repeat(10_000, axis=0)
    rule = NegativeRule(count=1, below_positive=None, sampling="softmax", temperature=0.1)
    draws = draw_numbers(
        0, text_numbers([str(i) for i in range(10_000)]), np.arange(3, dtype=np.uint64)[None].repeat(10_000, axis=0)
    )
    found = choose(scores, np.ones(10_000, np.float32), np.ones((10_000, 3), bool), rule, draws=draws)
    share = np.bincount(found.places[:, 0], minlength=3) / 10_000
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 10_000)).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"count": 0}, "count=0: expected 1 or more"),
        ({"below_positive": 95}, "below_positive=95: expected a share from 0 to 1"),
        ({"skip_top": 100}, "skip_top=100: expected 0 to below the depth of 100"),
        ({"min_score": 0.5, "max_score": 0.4}, "min_score=0.5: it is above max_score=0.4"),
        ({"count": 9, "depth": 10, "skip_top": 2}, r"ranks 3 to 10 hold 8 documents. Look deeper \(depth=92\)"),
        ({"sampling": "best"}, "sampling=best: expected one of top, random, softmax"),
        ({"temperature": 0.0}, "temperature=0.0: expected a number of 1e-6 or more"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_name(changed, said):
    with pytest.raises(BadConfig, match=said):
        NegativeRule(**changed)

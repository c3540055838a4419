"""Bootstrap, randomization and Holm: scipy, and exact enumeration."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import BadConfig, BadInput, Mismatch
from nearfar.metrics import bootstrap_interval, holm, median_interval, paired_difference, significance

RESAMPLES = 20_000


def scores(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two systems with the numbers that metrics give: many zeros and ones, many equal pairs."""
    rng = np.random.default_rng(seed)
    a, b = (np.round(np.clip(rng.normal(mean, 0.4, size=n), 0, 1), 2) for mean in (0.5, 0.45))
    return a, np.where(rng.random(n) < 0.3, a, b)


def quantile_error(bootstrap_means_sd: float, resamples: int) -> float:
    """Standard error of the 2.5 % quantile of that many draws, for a normal distribution of this spread."""
    density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(0.025)) / bootstrap_means_sd
    return float(np.sqrt(0.025 * 0.975 / resamples) / density)


@pytest.mark.parametrize("n", [30, 400])
def test_the_paired_interval_is_scipys_up_to_the_error_of_drawing(n):
    a, b = scores(1, n)
    ours = paired_difference(a, b, resamples=RESAMPLES, seed=3)
    theirs = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), paired=True, vectorized=True, method="percentile",
        n_resamples=RESAMPLES, rng=np.random.default_rng(4), batch=1000,
    )  # fmt: skip
    # two independent draws: 5 standard errors of their difference
    tolerance = 5 * float(np.sqrt(2)) * quantile_error(theirs.standard_error, RESAMPLES)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    assert tolerance < 0.1 * (ours.high - ours.low)
    assert ours.difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [2, 5, 8, 12])
def test_the_p_value_of_few_queries_is_scipys_exact_one(seed, n):
    a, b = scores(seed, n)
    theirs = scipy.stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=2**12)
    assert paired_difference(a, b, resamples=10).p == pytest.approx(theirs.pvalue, abs=1e-15)


def test_the_p_value_of_many_queries_is_scipys_up_to_the_error_of_drawing():
    for seed in range(3):
        a, b = scores(seed, 60)
        theirs = scipy.stats.permutation_test(
            (a - b,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(9)
        ).pvalue
        ours = paired_difference(a, b, resamples=RESAMPLES).p
        # scipy doubles the smaller tail, so its error is that of 2 x a tail of p/2
        error = np.sqrt(theirs * (1 - theirs) / RESAMPLES + 2 * theirs * (1 - theirs / 2) / RESAMPLES)
        assert ours == pytest.approx(theirs, abs=5 * error + 2 / RESAMPLES)


@given(differences=st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_the_exact_p_value_is_the_share_of_sign_assignments_at_least_as_extreme(differences):
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=len(differences))
    ]
    expected = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
    found = paired_difference(np.array(differences) / 10, np.zeros(len(differences)), resamples=5)
    assert found.p == pytest.approx(expected, abs=1e-15)
    assert (found.better, found.worse) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))


@given(seed=st.integers(0, 500), n=st.integers(2, 25))
def test_exchanging_the_systems_turns_the_difference_and_keeps_the_p_value(seed, n):
    a, b = scores(seed, n)
    there, back = paired_difference(a, b, resamples=300), paired_difference(b, a, resamples=300)
    assert (there.difference, there.p, there.better, there.worse) == pytest.approx(
        (-back.difference, back.p, back.worse, back.better)
    )
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_drawn_and_counted_p_values_agree_up_to_the_error_of_drawing(monkeypatch):
    a, b = scores(5, 14)
    exact = paired_difference(a, b).p
    monkeypatch.setattr(significance, "EXACT_UP_TO", 0)
    drawn = paired_difference(a, b, resamples=RESAMPLES).p
    assert drawn == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / RESAMPLES) + 1 / RESAMPLES)


def test_a_drawn_p_value_is_never_zero():
    assert paired_difference(np.ones(200), np.zeros(200), resamples=999).p == pytest.approx(1 / 1000)


def test_under_the_null_hypothesis_p_is_below_a_level_no_more_often_than_the_level_says():
    rng = np.random.default_rng(0)
    p = np.array([paired_difference(*rng.normal(size=(2, 25)), resamples=199, seed=n).p for n in range(1000)])
    for level in (0.05, 0.2, 0.5):
        # (count + 1) / (resamples + 1) makes the test valid: 4 standard errors of a share of 1000
        assert (p <= level).mean() <= level + 4 * np.sqrt(level * (1 - level) / 1000)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = [bootstrap_interval(rng.beta(0.5, 0.5, size=100), resamples=400, seed=n) for n in range(600)]
    covered = np.mean([i.low <= 0.5 <= i.high for i in draws])
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 600) + 0.01)


def test_the_interval_does_not_depend_on_the_size_of_chunks(monkeypatch):
    a, _ = scores(2, 50)
    whole = bootstrap_interval(a, resamples=500)
    monkeypatch.setattr(significance, "CHUNK", 7 * 50)
    assert bootstrap_interval(a, resamples=500) == whole


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    a, _ = scores(2, 50)
    assert bootstrap_interval(a, seed=1) == bootstrap_interval(a, seed=1) != bootstrap_interval(a, seed=2)


def test_more_confidence_is_a_wider_interval_around_the_mean():
    a, _ = scores(2, 50)
    narrow, wide = bootstrap_interval(a, confidence=0.5), bootstrap_interval(a, confidence=0.99)
    assert wide.low < narrow.low < narrow.mean == wide.mean < narrow.high < wide.high


@pytest.mark.parametrize("values", [[0.3], [0.1] * 37, [0.0, 0.0]])
def test_where_all_values_are_equal_the_interval_is_that_value(values):
    assert bootstrap_interval(values) == (values[0], values[0], values[0])


def test_systems_that_never_differ_have_p_1():
    a, _ = scores(0, 40)
    assert paired_difference(a, a) == (0, 0, 0, 1, 0, 0)


def test_one_query_shows_nothing():
    assert paired_difference([1.0], [0.0]) == (1, 1, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("values", "says"),
    [([], "at least one query"), ([1.0, np.nan], "value 1 is nan"), ([np.inf], "value 0 is inf"), ([[1.0]], "shape")],
)
def test_values_that_cannot_be_averaged_are_refused(values, says):
    with pytest.raises(BadInput, match=says):
        bootstrap_interval(values)
    with pytest.raises(BadInput, match=says):
        paired_difference(values, values)


def test_systems_on_different_numbers_of_queries_are_refused():
    with pytest.raises(Mismatch, match="a has 2 values and b 3"):
        paired_difference([0.0, 1.0], [0.0, 1.0, 1.0])


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 95}, {"resamples": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(BadConfig, match=next(iter(options))):
        bootstrap_interval([0.0, 1.0], **options)


def test_holm_is_the_worked_example():
    # Holm 1979's procedure by hand: 0.01 x 4, 0.02 x 3, then never less than the one before
    np.testing.assert_allclose(holm([0.03, 0.01, 0.02, 0.8]), [0.06, 0.04, 0.06, 0.8])
    assert len(holm([])) == 0


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_keeps_the_order_lies_between_p_and_bonferroni_and_is_the_step_down_rule(p):
    raised, plain = holm(p), np.array(p)
    assert (raised >= plain).all()
    assert (raised <= np.minimum(plain * len(p), 1)).all()
    for level in (0.01, 0.05, 0.3):
        order = np.argsort(plain, kind="stable")
        shown = 0
        while shown < len(p) and plain[order[shown]] * (len(p) - shown) <= level:
            shown += 1
        assert (raised <= level).sum() == shown


@pytest.mark.parametrize("p", [[0.1, np.nan], [1.2], [-0.1]])
def test_holm_refuses_what_is_no_probability(p):
    with pytest.raises(BadInput, match="expected one-dimensional numbers"):
        holm(p)


def test_the_interval_of_a_median_holds_it_in_at_least_95_percent_of_draws():
    rng = np.random.default_rng(5)
    for count in (7, 30, 101):
        found = [median_interval(rng.exponential(size=count)) for _ in range(2000)]
        assert np.mean([low <= np.log(2) <= high for _, low, high in found]) >= 0.945
        assert all(low <= middle <= high for middle, low, high in found)


def test_of_few_values_the_median_lies_between_the_smallest_and_the_largest():
    assert median_interval([3.0, 1.0]) == (2.0, 1.0, 3.0)
    assert median_interval([4.0]) == (4.0, 4.0, 4.0)

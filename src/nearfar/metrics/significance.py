"""What may be concluded from one number per query: bootstrap intervals, paired randomization tests, Holm's correction.

Percentile bootstrap: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13. Randomization test as the one to use in
retrieval: Smucker, Allan & Carterette 2007 (doi 10.1145/1321440.1321528). Several tests at once: Holm 1979.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from nearfar.errors import BadConfig, BadInput, Mismatch

CHUNK = 1 << 20
"""Numbers drawn at a time: the memory of a bootstrap is some 20 MB however many queries and resamples there are."""

EXACT_UP_TO = 14
"""With at most this many differences other than zero every assignment of signs is tried (2^14 = 16,384)."""

_SLACK = 1e-12  # sums that differ by this share of the sum of |differences| are equal: they were added in another order


class Interval(NamedTuple):
    """A mean and the interval around it."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """What two systems' numbers on the same queries say: `difference` is the mean of a - b, in [low, high] with confidence."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided: how probable a mean at least this far from zero is if, at every query, the systems are interchangeable."""
    better: int
    """Queries where a is above b."""
    worse: int
    """Queries where a is below b; at all others they are equal."""


def bootstrap_interval(values: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of one number per query [q], and its percentile bootstrap interval over queries (Efron & Tibshirani 1993, 13).

    The same values, seed and resamples give the same interval, whatever the machine's memory. Where all values are equal (or
    there is one) the interval is that value: the bootstrap knows only the spread it sees. Raises `BadInput` for no values,
    values that are not finite or not one-dimensional, `BadConfig` for a confidence outside (0, 1) or no resamples.
    Time O(resamples q).
    """
    numbers = _numbers(values, "values")
    _check(confidence, resamples)
    mean = float(numbers.mean())
    if np.ptp(numbers) == 0:
        return Interval(float(numbers[0]), float(numbers[0]), float(numbers[0]))
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            numbers[rng.integers(len(numbers), size=(rows, len(numbers)))].mean(axis=1)
            for rows in _chunks(resamples, len(numbers))
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))


def median_interval(values: ArrayLike) -> Interval:
    """The median of one number per query [q], and its distribution-free interval of at least 95 %: two of the values themselves.

    The ranks of those two are the quantiles of a fair coin thrown q times (Conover 1999, Practical Nonparametric Statistics, 3.2). With fewer
    than six values no two are far enough apart: the interval is the smallest and the largest. Raises `BadInput` as `bootstrap_interval`.
    """
    numbers = np.sort(_numbers(values, "values"))
    count = len(numbers)
    # log P(exactly j heads), added up: the largest j with P(fewer than j) <= 2.5 %
    heads = np.arange(count + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    chance = np.exp(factorials[count] - factorials[heads] - factorials[count - heads] - count * np.log(2))
    low = max(int(np.searchsorted(np.cumsum(chance), 0.025, side="right")) - 1, 0)
    return Interval(float(np.median(numbers)), float(numbers[low]), float(numbers[count - 1 - low]))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Compare two systems on the same queries: `a` [q] and `b` [q], one number per query in the same order.

    The interval is the percentile bootstrap over queries of a - b. The p-value is Fisher's randomization test, two-sided
    (Smucker, Allan & Carterette 2007): under the null hypothesis the sign of every difference is a coin's. Up to `EXACT_UP_TO`
    differences other than zero all assignments are counted; beyond, `resamples` are drawn and p = (as extreme + 1) /
    (resamples + 1), never 0. Where nothing differs p is 1. Near the border interval and p may disagree; the p-value decides.
    Raises `Mismatch` for unequal lengths, otherwise as `bootstrap_interval`.
    """
    left, right = _numbers(a, "a"), _numbers(b, "b")
    if len(left) != len(right):
        raise Mismatch(
            f"a has {len(left):,} values and b {len(right):,}: a paired test needs both systems on the same queries."
        )
    differences = left - right
    interval = bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    p = _sign_flip_p(differences[differences != 0], resamples, seed)
    return PairedDifference(*interval, p, int((differences > 0).sum()), int((differences < 0).sum()))


def _sign_flip_p(differences: Float[np.ndarray, " m"], resamples: int, seed: int) -> float:
    """Differences of zero are left out before: no sign changes them."""
    edge = abs(differences.sum()) - _SLACK * np.abs(differences).sum()
    if len(differences) <= EXACT_UP_TO:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= edge).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _chunks(resamples, len(differences)):
        signs = rng.integers(2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ differences) >= edge).sum())
    return (extreme + 1) / (resamples + 1)


def holm(p_values: ArrayLike) -> Float[np.ndarray, " m"]:
    """P-values [m] of m tests, raised so that calling all below 0.05 shown errs anywhere with probability 0.05 at most (1979).

    In the order given; never below the p-value itself, never above 1. Raises `BadInput` for values outside 0..1 or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise BadInput(f"p_values: expected one-dimensional numbers in 0..1, found {p.tolist()!r}.")
    order = np.argsort(p, kind="stable")
    raised = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    adjusted = np.empty_like(p)
    adjusted[order] = raised
    return adjusted


def _chunks(resamples: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `resamples`, each chunk within `CHUNK` numbers (or one row)."""
    rows = max(CHUNK // width, 1)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _numbers(values: ArrayLike, name: str) -> Float[np.ndarray, " q"]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise BadInput(
            f"{name}: expected one number for each query, found shape {numbers.shape}. There must be at least one query."
        )
    if not np.isfinite(numbers).all():
        where = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise BadInput(
            f"{name}: value {where} is {numbers[where]}. Every query needs a finite number: leave out what was not measured."
        )
    return numbers


def _check(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise BadConfig(f"confidence: expected a number between 0 and 1, found {confidence}. Usual is 0.95.")
    if resamples < 1:
        raise BadConfig(f"resamples: expected at least 1, found {resamples}. Usual is 10,000.")

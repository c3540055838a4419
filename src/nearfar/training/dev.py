"""The curve on the dev queries: what each evaluation showed, which checkpoint is kept, and when waiting for a better one is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nearfar.metrics.significance import bootstrap_interval


class DevScore(NamedTuple):
    """One evaluation on the dev queries: the mean score, and its mean difference to the start, in [low, high] with 95 % confidence."""

    step: int
    score: float
    difference: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The five fields by name."""
        return self._asdict()


def score_dev(step: int, now: ArrayLike, start: ArrayLike) -> DevScore:
    """The evaluation at `step`, from one number per dev query [q] now and at the start, in the same order."""
    after, before = np.asarray(now, dtype=np.float64), np.asarray(start, dtype=np.float64)
    found = bootstrap_interval(after - before)
    return DevScore(step, float(after.mean()), *found)


def choose_best(curve: Sequence[DevScore]) -> DevScore:
    """The evaluation with the greatest lower 95 % bound of the paired difference to the start; among equals the earliest.

    Why the difference and not the score: some queries are hard and some easy under every checkpoint. That spread is most of a score's
    interval, is the same for all checkpoints, and cancels query by query. Why its lower bound and not its mean: the best of several noisy
    means is too good to be true, and a larger gain at a few queries is worth less than a smaller one at many. The start differs from
    itself by exactly zero, so a checkpoint takes its place only where it is shown to be better (a bound above zero): what cannot be shown
    is not shipped. Every evaluation resamples the same queries, so bounds differ by what the checkpoints did, never by the draw.
    """
    return max(curve, key=lambda found: found.low)


def wait(curve: Sequence[DevScore]) -> int:
    """Evaluations since the last one that raised the greatest lower bound of the trained checkpoints; the start is not among these.

    The start's bound of zero would end every run that first loses a little and then gains: only what training does is waited for.
    """
    trained = curve[1:]
    return len(trained) - 1 - trained.index(choose_best(trained)) if trained else 0


def is_over(curve: Sequence[DevScore], patience: int | None) -> bool:
    """Whether `patience` evaluations in a row brought no better lower bound. A function of the curve alone, so a resumed run agrees."""
    return patience is not None and wait(curve) >= patience

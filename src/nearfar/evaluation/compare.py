"""Is one system better than another on the same queries, and at which ones: paired statistics put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from nearfar.errors import BadConfig, Mismatch
from nearfar.evaluation.evaluate import Evaluation, fingerprint_task
from nearfar.metrics.ranking import parse_metric
from nearfar.metrics.significance import paired_difference
from nearfar.types import Task

LEVEL = 0.05
"""P-values below it count as shown."""

Verdict = Literal["improved", "not shown", "worse"]


@dataclass(frozen=True)
class Comparison:
    """System a against system b on the same queries: `difference` is the mean of a - b, in [low, high] with 95 % confidence."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of the paired randomization test (`nearfar.metrics.paired_difference`)."""
    better: int
    """Queries where a is above b."""
    worse: int
    """Queries where a is below b."""

    @property
    def verdict(self) -> Verdict:
        """`improved` or `worse` (a, by the sign of the difference) where p < 0.05, else `not shown`."""
        if self.p >= LEVEL or self.difference == 0:
            return "not shown"
        return "improved" if self.difference > 0 else "worse"

    def to_json(self) -> dict[str, str | float | int]:
        """The nine fields by name."""
        return dict(vars(self))


class RankChange(NamedTuple):
    """A query at which the two systems differ, with what a reader needs to see why. Ranks count from 1."""

    query_id: str
    query: str
    difference: float
    """The metric under a, minus the metric under b."""
    before: int | None
    """Rank of the first relevant document under b; None where none was found within the depth of the evaluation."""
    after: int | None
    """The same under a."""
    relevant_id: str
    """The relevant document at the better of the two ranks (where neither found one: the one with the highest grade)."""
    relevant: str
    before_id: str | None
    """The document b put first; None where b found nothing."""
    before_top: str
    after_id: str | None
    """The document a put first."""
    after_top: str


class RankChanges(NamedTuple):
    """The queries that changed most from b to a, the greatest change first."""

    gained: list[RankChange]
    lost: list[RankChange]


def compare(
    a: Evaluation,
    b: Evaluation,
    metric: str = "ndcg@10",
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations of the same task, query by query; `difference` is a - b.

    Raises `Mismatch` where the texts or judgements of the tasks, the queries or the rules of scoring differ, `BadConfig` where
    the metric was not measured in both. Several comparisons at once: correct their p-values with `nearfar.metrics.holm`.
    """
    left, right = _paired(a, b, metric)
    found = paired_difference(left, right, confidence=confidence, resamples=resamples, seed=seed)
    return Comparison(a.system, b.system, parse_metric(metric).name, *found)


def rank_changes(a: Evaluation, b: Evaluation, task: Task, count: int = 5, *, metric: str = "ndcg@10") -> RankChanges:
    """At most `count` queries that gained most and that lost most from b to a, with texts.

    Among equal changes of the metric those that moved by the most ranks come first, then those first in the task.

    `task` must be the task evaluated (`Mismatch` otherwise); otherwise raises as `compare`.
    """
    left, right = _paired(a, b, metric)
    if fingerprint_task(task) != a.task_fingerprint:
        raise Mismatch(
            f"task {task.name} is not what {a.system} was evaluated on (texts or judgements differ). Give that task."
        )
    difference = left - right
    place = {query: number for number, query in enumerate(b.query_ids)}
    rows = [(b.ranked[place[query]], a.ranked[number], task.judgements[query]) for number, query in enumerate(a.query_ids)]
    deep = max(a.depth, b.depth) + 1
    ranks = np.array([[_first(row, grades) or deep for row in (before, after)] for before, after, grades in rows])
    climbed = ranks[:, 0] - ranks[:, 1]

    def change(number: int) -> RankChange:
        return _describe(a.query_ids[number], float(difference[number]), *rows[number][:2], task)

    gained = [change(int(n)) for n in np.lexsort((-climbed, -difference))[:count] if difference[n] > 0]
    lost = [change(int(n)) for n in np.lexsort((climbed, difference))[:count] if difference[n] < 0]
    return RankChanges(gained, lost)


def _first(ranked: tuple[str, ...], grades: Mapping[str, int]) -> int | None:
    """The rank of the first relevant document."""
    return next((place for place, key in enumerate(ranked, 1) if grades.get(key, 0) > 0), None)


def _describe(query: str, difference: float, before: tuple[str, ...], after: tuple[str, ...], task: Task) -> RankChange:
    grades = task.judgements[query]
    old, new = _first(before, grades), _first(after, grades)
    if new is not None and (old is None or new <= old):
        relevant = after[new - 1]
    elif old is not None:
        relevant = before[old - 1]
    else:
        relevant = max(sorted(grades), key=lambda key: grades[key])
    tops = [ranked[0] if ranked else None for ranked in (before, after)]
    before_top, after_top = (task.corpus[key] if key is not None else "" for key in tops)
    return RankChange(
        query,
        task.queries[query],
        difference,
        old,
        new,
        relevant,
        task.corpus[relevant],
        tops[0],
        before_top,
        tops[1],
        after_top,
    )


def _paired(a: Evaluation, b: Evaluation, metric: str) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """One number per query of both, in the order of a's queries."""
    name = parse_metric(metric).name
    for found in (a, b):
        if name not in found.metrics:
            raise BadConfig(
                f"{name} was not measured for {found.system}; measured: {', '.join(found.metrics)}. Evaluate it with {name}."
            )
    both = f"{a.system} on {a.task} and {b.system} on {b.task} cannot be compared"
    if a.task_fingerprint != b.task_fingerprint:
        raise Mismatch(f"{both}: the texts or judgements of the two tasks differ. Evaluate both on the same task.")
    if set(a.query_ids) != set(b.query_ids):
        raise Mismatch(
            f"{both}: one has {len(a.query_ids):,} queries, the other {len(b.query_ids):,}, and not the same. "
            "Evaluate both anew."
        )
    for rule in ("gain", "identical_dropped"):
        if getattr(a, rule) != getattr(b, rule):
            raise Mismatch(
                f"{both}: {rule} is {getattr(a, rule)} for one and {getattr(b, rule)} for the other. Evaluate both alike."
            )
    place = {query: number for number, query in enumerate(b.query_ids)}
    return a.metrics[name], b.metrics[name][[place[query] for query in a.query_ids]]

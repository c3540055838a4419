"""Why a run did not help, as far as the run itself can tell, and what to try next: every sentence from a figure of this run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfar.encoders import Tokens
from nearfar.evaluation import Comparison
from nearfar.evaluation.retention import Retention
from nearfar.metrics.power import queries_needed
from nearfar.metrics.ranking import label
from nearfar.training.config import Config
from nearfar.training.dev import DevScore, choose_best
from nearfar.types import Inputs

CUT_SHARE = 0.25
"""Documents that reach the length limit count as a reason from this share on."""
REPEATED_SHARE = 0.3
"""Pairs whose document another pair has, likewise."""


class Reason(NamedTuple):
    """What was found, and what to try."""

    found: str
    advice: str


@dataclass(frozen=True)
class RunFacts:
    """What a finished run knows of itself."""

    config: Config
    """As resolved: no setting that depends on the encoder is None."""
    curve: Sequence[DevScore]
    best_step: int
    steps: int
    losses: Sequence[tuple[float, int]]
    """Of each step the mean loss, in nats, and the pairs in its batch."""
    comparison: Comparison | None
    start_score: float
    """The mean of the start on the judging queries."""
    judged: int
    """Judging queries."""
    chosen: int
    """Dev queries."""
    own_task: bool
    """Whether the judging task was given, not held out of the pairs."""
    pairs: int
    distinct_documents: int
    cut_share: float
    """Share of the documents that reach `max_length` tokens."""
    max_length: int | None
    retention: Retention | None = None


def find_reasons(facts: RunFacts) -> list[Reason]:
    """What the run knows about why it is not shown to have helped, the most telling first, and what to do about forgetting.

    Nothing where it helped and forgot nothing, or where nothing judged it.
    """
    forgot = [_forgot(facts)] if facts.retention and facts.retention.verdict == "worse" else []
    if facts.comparison is None or facts.comparison.verdict == "improved":
        return forgot
    rules: tuple[Callable[[RunFacts], Reason | None], ...] = (
        _learned_nothing,
        _below_the_start,
        _rose_and_fell,
        _too_few_to_choose,
        _another_distribution,
        _still_rising,
        _too_few_to_judge,
        _near_the_top,
        _texts_cut,
        _documents_repeat,
    )
    return [reason for rule in rules if (reason := rule(facts)) is not None] + forgot


def read_losses(path: Path) -> list[tuple[float, int]]:
    """Loss and pairs of every step in a `steps.jsonl`."""
    found: list[tuple[float, int]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        step: dict[str, Any] = json.loads(line)
        found.append((float(step["loss"]), int(step["pairs"])))
    return found


def share_cut(inputs: Inputs, max_length: int | None) -> float:
    """Share of prepared texts that have `max_length` tokens, so were cut (or just fit); 0 of other inputs."""
    if not isinstance(inputs, Tokens):  # pictures are not cut
        return 0.0
    return float((inputs.lengths >= max_length).mean()) if max_length and len(inputs) else 0.0


def _learned_nothing(f: RunFacts) -> Reason | None:
    if len(f.losses) < 4 or f.config.loss.name in ("sup_con", "siglip"):  # whose floor and whose guess are others
        return None
    part = max(1, len(f.losses) // 10)
    first, last = (float(np.mean([loss for loss, _ in some])) for some in (f.losses[:part], f.losses[-part:]))
    guess = float(np.mean([math.log(max(pairs, 2)) for _, pairs in f.losses[-part:]]))
    if last > 1.05 * first:
        return Reason(f"The training loss rose, from {first:.3f} to {last:.3f} nats.", _lower_rate(f))
    if last > 0.9 * guess:
        return Reason(
            f"The training loss ended at {last:.3f} nats (it began at {first:.3f}); guessing among the positives of a batch gives "
            f"{guess:.3f}: next to nothing was learned.",
            f"Check that each positive answers its query; try another learning rate (--set learning_rate=..., now {f.config.learning_rate:g}).",
        )
    if last > 0.98 * first:
        return Reason(
            f"The training loss did not fall: {first:.3f} nats at the beginning, {last:.3f} at the end.",
            f"Try a higher learning rate (--set learning_rate={5 * _rate(f):g}) or more epochs; if it stays, the pairs teach nothing new.",
        )
    return None


def _below_the_start(f: RunFacts) -> Reason | None:
    trained = f.curve[1:]
    if not trained or any(found.difference >= 0 for found in trained):
        return None
    best, last = max(trained, key=lambda found: found.difference), trained[-1]
    falling = f", and {last.difference:+.3f} at the last" if last is not best else ""
    return Reason(
        f"On the dev queries every checkpoint was below the start: {best.difference:+.3f} [{best.low:+.3f}, {best.high:+.3f}] at best "
        f"(step {best.step:,}){falling}.",
        f"{_lower_rate(f)} If that changes nothing, the pairs teach something else than the dev queries ask.",
    )


def _rose_and_fell(f: RunFacts) -> Reason | None:
    if len(f.curve) < 3:
        return None
    peak, last = max(f.curve[1:], key=lambda found: found.difference), f.curve[-1]
    if peak.difference <= 0 or last.high >= peak.difference:
        return None
    epochs = f.config.epochs
    what = f"Too many epochs (now {epochs}) or too high a learning rate" if epochs > 1 else "Too high a learning rate"
    fewer = f"--set epochs={epochs // 2} or " if epochs > 1 else ""
    return Reason(
        f"The dev score rose to {peak.score:.3f} at step {peak.step:,}, then fell to {last.score:.3f} at step {last.step:,}.",
        f"{what}: try {fewer}--set learning_rate={_rate(f) / 3:.2g}; --set evaluation.patience=3 stops in time.",
    )


def _too_few_to_choose(f: RunFacts) -> Reason | None:
    if f.best_step != 0 or len(f.curve) < 2:
        return None
    best = choose_best(f.curve[1:])
    if best.difference <= 0:
        return None
    return Reason(
        f"The start was kept: the best checkpoint (step {best.step:,}) was above it on the dev queries, {best.difference:+.3f} "
        f"[{best.low:+.3f}, {best.high:+.3f}], but {f.chosen:,} queries do not show that{_needed(best, f.chosen)}.",
        "Give more dev queries (--set evaluation.dev=N, or --dev TASK), or more pairs.",
    )


def _another_distribution(f: RunFacts) -> Reason | None:
    best = next((found for found in f.curve if found.step == f.best_step), None)
    if f.best_step == 0 or best is None or not f.own_task:
        return None
    return Reason(
        f"The dev queries gained {best.difference:+.3f} [{best.low:+.3f}, {best.high:+.3f}], the judging task did not: they ask for "
        "different things.",
        "Train on pairs that resemble the task, or let queries like the task's choose the checkpoint (--dev TASK).",
    )


def _still_rising(f: RunFacts) -> Reason | None:
    if f.best_step == 0 or f.best_step != f.steps or len(f.curve) < 3:
        return None
    return Reason(
        f"The dev score was best at the last evaluation (step {f.best_step:,}): it was still rising when the run ended.",
        f"Try more epochs (--set epochs={2 * f.config.epochs}).",
    )


def _too_few_to_judge(f: RunFacts) -> Reason | None:
    found = f.comparison
    if found is None or found.verdict != "not shown" or found.difference == 0:
        return None
    needed = queries_needed(found.difference, found.low, found.high, f.judged)
    if needed is None or needed <= f.judged:
        return None
    return Reason(
        f"{f.judged:,} judging queries are too few to show a difference of {found.difference:+.3f}: that would take about {needed:,}.",
        "Judge by a larger task (--eval TASK)."
        if f.own_task or needed > f.pairs  # more than there are cannot be held out
        else f"Hold out more (--set evaluation.judge={needed}), or give --eval TASK.",
    )


def _near_the_top(f: RunFacts) -> Reason | None:
    if f.start_score < 0.95:
        return None
    return Reason(
        f"The start scores {f.start_score:.3f} of 1 on the judging queries: there is little to gain.",
        "Judge by a harder task: a larger corpus, real queries (--eval TASK).",
    )


def _texts_cut(f: RunFacts) -> Reason | None:
    if f.cut_share < CUT_SHARE:
        return None
    return Reason(
        f"{f.cut_share:.0%} of the documents reach {f.max_length:,} tokens, where they are cut: what comes after is never seen.",
        "Raise it where the model can hold more (--set max_length=N), or cut the documents into passages.",
    )


def _documents_repeat(f: RunFacts) -> Reason | None:
    if f.distinct_documents >= (1 - REPEATED_SHARE) * f.pairs:
        return None
    return Reason(
        f"The {f.pairs:,} pairs have only {f.distinct_documents:,} different positives.",
        "Fewer different texts teach less: drop near duplicates, or add pairs of other documents.",
    )


def _forgot(f: RunFacts) -> Reason:
    assert f.retention is not None
    assert f.retention.comparison is not None
    lost = f.retention.comparison
    return Reason(
        f"What the model could do before got worse: {label(lost.metric)} {lost.difference:+.3f} on the retention task.",
        f"{_lower_rate(f)} Or add pairs of that kind to the training pairs.",
    )


def _needed(found: DevScore, queries: int) -> str:
    needed = queries_needed(found.difference, found.low, found.high, queries)
    return f" (about {needed:,} would)" if needed and needed > queries else ""


def _rate(f: RunFacts) -> float:
    return f.config.learning_rate or 0.0


def _lower_rate(f: RunFacts) -> str:
    fewer = f" or fewer epochs (now {f.config.epochs})" if f.config.epochs > 1 else ""
    return f"Try a lower learning rate (--set learning_rate={_rate(f) / 10:g}, now {_rate(f):g}){fewer}."


def conclude(
    comparison: Comparison | None, metric: str, scores: tuple[float, float], judged: int, *, start_kept: bool, judges: str
) -> str:
    """The verdict on the judging queries in one sentence; `scores` are the means of start and trained, `judges` names the task."""
    if comparison is None:
        return "Not judged: no queries were held out. Give a task (--eval TASK) to find out whether training helped."
    before, after = scores
    p = "p < 0.001" if comparison.p < 0.001 else f"p = {comparison.p:.3f}"
    said = (
        f"{label(metric)} {before:.3f} before, {after:.3f} after, {comparison.difference:+.3f} [{comparison.low:+.3f}, "
        f"{comparison.high:+.3f}], {p}, on {judged:,} queries ({judges})"
    )
    if comparison.verdict == "improved":
        return f"IMPROVED, shown on queries not trained on: {said}."
    if comparison.verdict == "worse":
        return f"WORSE, shown on queries not trained on: {said}. Keep the model you started from."
    if start_kept:
        return (
            f"NOT SHOWN to be better: no checkpoint was shown to be better than the start on the dev queries, so model/ is the start itself, "
            f"unchanged ({label(metric)} {before:.3f} on {judged:,} queries, {judges})."
        )
    return f"NOT SHOWN to be better: {said}. The difference may be chance: do not ship it for this reason."

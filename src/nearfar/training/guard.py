"""Who chooses and who judges: the start is scored before the first step, the dev task picks the weights, the task judges once.

The order of things is the promise: the scores to beat are known, and said, before any time is spent on training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from nearfar.data.sources.general import FEWEST, outside_texts
from nearfar.encoders import AnyEncoder, ImageEncoder, computing, load_encoder
from nearfar.errors import NearfarError
from nearfar.evaluation import Evaluation, evaluate, fingerprint_task
from nearfar.evaluation.retention import Retention, compare_neighbours, judge_retention
from nearfar.metrics.ranking import label, parse_metric
from nearfar.metrics.significance import bootstrap_interval
from nearfar.training.config import Config
from nearfar.training.dev import DevScore, choose_best, is_over, score_dev, wait
from nearfar.training.plan import Plan
from nearfar.training.state import State, Work, save_model
from nearfar.types import Progress, Task, silent


@dataclass(frozen=True)
class Baseline:
    """The start, before the first step: on the judging, the dev and the retention task, where there are such."""

    task: Evaluation | None
    dev: Evaluation | None
    retain: Evaluation | None


def judge_start(run: Path, model: AnyEncoder, plan: Plan, retain: Task | None, config: Config, progress: Progress) -> Baseline:
    """Score the start on the judging, the dev and the retention task, and say each score at once.

    It is judged as what it is compared with: from its folder, adapters merged, as the result; on the dev queries as it trains, as every
    checkpoint. Evaluations are kept in the run, and read back by a later process of it where they are of the same task and metric.
    """

    @cache
    def saved() -> AnyEncoder:
        return load_encoder(run / "start").to(model.device)

    def judged(system: AnyEncoder | Callable[[], AnyEncoder], task: Task | None, name: str, said: str) -> Evaluation | None:
        if task is None:
            return None
        found = judge(system, task, run / name, "start", config, progress)
        metric = config.evaluation.metric
        score = bootstrap_interval(found.metrics[parse_metric(metric).name])
        progress(
            "start",
            1,
            1,
            note=f"{label(metric)} {score.mean:.3f} [{score.low:.3f}, {score.high:.3f}] before any step, on "
            f"{len(found.query_ids):,} {said} queries ({task.name})",
        )
        return found

    return Baseline(
        judged(saved, plan.task, "start.evaluation.json", "judging"),
        judged(model, plan.dev, "start.dev.json", "dev"),
        judged(saved, retain, "start.retention.json", "retention"),
    )


def choose(work: Work, state: State) -> None:
    """Score the dev task; where its lower bound is the best so far (or nothing can say), these weights become `model/`."""
    if work.dev is None:
        state.best_step = state.step
        save_model(work, state)
        return
    assert work.dev_start is not None
    name, start = parse_metric(work.config.evaluation.metric).name, work.dev_start
    if state.step == 0:
        now = start
    else:
        now = evaluate(state.encoder, work.dev, metrics=[name], depth=_depth(name), progress=silent)
    found = score_dev(state.step, now.metrics[name], start.metrics[name])
    state.dev_scores.append(found)
    best = choose_best(state.dev_scores)
    if best is found:
        state.best_step, state.best_score = state.step, found.score
        save_model(work, state)
    work.progress("dev", state.step, work.total, score=found.score)
    if state.step:
        work.progress("dev", state.step, work.total, note=_dev_line(work, found, best))


def is_stopped(work: Work, state: State) -> bool:
    """Whether the dev queries say that going on is in vain (`evaluation.patience`)."""
    return work.dev is not None and is_over(state.dev_scores, work.config.evaluation.patience)


def say_stop(state: State, config: Config, total: int) -> str | None:
    """Why a run ended before its last step; None where it did not."""
    if state.step >= total or not is_over(state.dev_scores, config.evaluation.patience):
        return None
    best = choose_best(state.dev_scores[1:])
    return (
        f"Stopped early, at step {state.step:,} of {total:,}: {wait(state.dev_scores)} evaluations on the dev queries in a row were no better "
        f"than step {best.step:,}'s (evaluation.patience={config.evaluation.patience}; its lower bound was {best.low:+.3f} to the start)."
    )


def judge(
    model: AnyEncoder | Callable[[], AnyEncoder],
    task: Task,
    path: Path,
    name: str,
    config: Config,
    progress: Progress,
    *,
    keep: bool = True,
) -> Evaluation:
    """The evaluation of a model (or of what opens it) on a task, in the run's precision; where `keep`, read back if this run has it already."""
    chosen = parse_metric(config.evaluation.metric).name
    if keep and (kept := _read_back(path, task, chosen)):
        return kept
    metrics = list(dict.fromkeys(["ndcg@10", "recall@10", "mrr@10", chosen]))
    opened = model if isinstance(model, AnyEncoder) else model()
    with computing(opened, config.compute.precision):
        found = evaluate(opened, task, metrics=metrics, depth=_depth(chosen), name=name, progress=progress)
    found.save(path)
    return found


def judge_trained(
    start: Evaluation,
    trained: AnyEncoder,
    task: Task,
    path: Path,
    config: Config,
    progress: Progress,
    *,
    start_kept: bool,
) -> Evaluation:
    """The evaluation of the kept weights; where they are the start's own, the start's evaluation under their name, since equal bytes score alike."""
    if not start_kept:
        return judge(trained, task, path, "trained", config, progress, keep=False)
    found = replace(start, system="trained")
    found.save(path)
    return found


def measure_retention(
    run: Path,
    trained: AnyEncoder,
    task: Task | None,
    start: Evaluation | None,
    plan: Plan,
    config: Config,
    progress: Progress,
    *,
    start_kept: bool,
) -> Retention | None:
    """What is left of what the start could do: on the retention task, else by the neighbours of texts outside the target domain.

    None where there is no retention task and no such texts are wanted (`evaluation.outside_texts=0`) or installed.
    """
    if task is not None and start is not None:
        after = judge_trained(start, trained, task, run / "trained.retention.json", config, progress, start_kept=start_kept)
        return judge_retention(start, after, config.evaluation.metric)
    if config.evaluation.outside_texts == 0:
        return None
    if isinstance(trained, ImageEncoder):
        progress(
            "retention", 0, 1, note="not measured: an encoder of pictures alone reads no texts. Give a task: --retain TASK"
        )
        return None
    near = (text for pair in plan.pairs for text in (pair.query, pair.positive))
    texts, source = outside_texts(near, config.evaluation.outside_texts)
    if len(texts) < FEWEST:
        progress("retention", 0, 1, note=f"not measured: {source}. Give a task: --retain TASK")
        return None
    start_model, precision = load_encoder(run / "start").to(trained.device), config.compute.precision
    with computing(start_model, precision), computing(trained, precision):  # alike: only training is to make a difference
        return compare_neighbours(start_model, trained, texts, source=source, progress=progress)


def _read_back(path: Path, task: Task, metric: str) -> Evaluation | None:
    """What an earlier process wrote, if it is whole and of this task and metric; otherwise it is made anew."""
    try:
        found = Evaluation.load(path)
    except NearfarError:
        return None
    return found if metric in found.metrics and found.task_fingerprint == fingerprint_task(task) else None


def _depth(metric: str) -> int:
    return max(100, parse_metric(metric).k)


def _dev_line(work: Work, found: DevScore, best: DevScore) -> str:
    kept = "the best so far" if best is found else f"kept: step {best.step:,}" if best.step else "kept: the start"
    return (
        f"step {found.step:,}/{work.total:,}: {label(work.config.evaluation.metric)} {found.score:.3f}, {found.difference:+.3f} "
        f"[{found.low:+.3f}, {found.high:+.3f}] to the start ({kept})"
    )

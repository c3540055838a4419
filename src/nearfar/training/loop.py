"""Training: pairs in, a run folder out, whose weights depend on its inputs and settings alone.

Batches are a function of (seed, epoch) and dropout of (seed, step), so a run taken up from any checkpoint ends with the same weights,
bit for bit, as one left alone (same machine and thread count). The best model on the dev task is kept, the start among the candidates.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from nearfar.data.usable import sound_pairs
from nearfar.encoders import (
    AnyEncoder,
    ImageEncoder,
    computing,
    is_static,
    kind_of,
    load_encoder,
)
from nearfar.encoders.computing import training_width
from nearfar.encoders.precision import compute_dtype
from nearfar.errors import BadInput, CannotWrite, Interrupted
from nearfar.evaluation import Comparison, Evaluation, compare
from nearfar.evaluation.retention import Retention
from nearfar.exporting import write_card
from nearfar.files import settle_folder, sole_writer, write_json
from nearfar.metrics.ranking import parse_metric
from nearfar.training.checkpoint import checkpoint_path
from nearfar.training.config import Config, check_config, config_from_json, resolve
from nearfar.training.dev import DevScore
from nearfar.training.feeding import check_dims
from nearfar.training.guard import Baseline, choose, is_stopped, judge_start, judge_trained, measure_retention, say_stop
from nearfar.training.holding import holding
from nearfar.training.labelled import read_labelled, watch_labels
from nearfar.training.objective import Objective
from nearfar.training.plan import FORMAT, Plan, check_identity, identity, machine, make_plan
from nearfar.training.reasons import Reason, RunFacts, conclude, find_reasons, read_losses, share_cut
from nearfar.training.record import StepLog, note_event
from nearfar.training.remine import check_due, check_mining, remine
from nearfar.training.sources import build_table, plan_mixture, prepare_items, resolve_mixture
from nearfar.training.start import is_small, open_start, pictures_alone
from nearfar.training.state import State, Work, new_state, save_state, take_up
from nearfar.training.step import step
from nearfar.training.stop import stop_requests
from nearfar.training.teachers import Teachers, guide_rows, open_teachers, taught_pairs
from nearfar.training.watch import Watch, check_watch
from nearfar.types import Pair, Progress, Task, silent

SAVE_SECONDS = 60.0
"""At most so much work is lost by a kill, unless told otherwise."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to. `start` and `trained` are evaluations on `task`, all three absent where nothing could judge."""

    run: Path
    config: Config
    pairs: int
    """Pairs trained on."""
    steps: int
    best_step: int
    """The step whose weights are `model/`; 0 is the start."""
    dev_scores: list[DevScore]
    start: Evaluation | None
    trained: Evaluation | None
    comparison: Comparison | None
    """Trained against start."""
    task: Task | None
    """What judged: as given, or held out of the pairs."""
    seconds: float
    """Spent in steps by this process, evaluation and saving apart."""
    pairs_per_second: float
    retention: Retention | None = None
    """What is left of what the start could do; it changes no verdict."""
    stopped: str | None = None
    """Why the run ended before its last step; None where it did not."""
    reasons: list[Reason] = field(default_factory=list)
    """Where it is not shown to have helped: what the run knows about why, and what to try."""

    @property
    def verdict(self) -> str:
        """`improved`, `not shown`, `worse`, or `not judged`, on the judging queries."""
        return self.comparison.verdict if self.comparison else "not judged"

    @property
    def conclusion(self) -> list[str]:
        """What the run came to in plain words: the verdict, then what is left of the start's abilities, then why it stopped early."""
        metric = parse_metric(self.config.evaluation.metric).name
        scores = [float(np.mean(e.metrics[metric])) for e in (self.start, self.trained) if e is not None]
        judged = len(self.start.query_ids) if self.start else 0
        verdict = conclude(
            self.comparison,
            metric,
            (scores[0], scores[1]) if self.comparison else (0.0, 0.0),
            judged,
            start_kept=self.best_step == 0,
            judges=self.task.name if self.task else "",
        )
        kept = self.retention.sentences if self.retention else []
        return [verdict, *kept, *([self.stopped] if self.stopped else [])]


def train(
    pairs: Sequence[Pair],
    *,
    out: Path | str,
    encoder: str | Path | AnyEncoder = "static",
    config: Config | None = None,
    task: Task | None = None,
    dev: Task | None = None,
    retain: Task | None = None,
    resume: bool = False,
    inputs: Mapping[str, str] | None = None,
    lineage: Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
    progress: Progress = silent,
) -> RunResult:
    """Train `encoder` (a name for `load_encoder`, or an encoder) on `pairs` by `loss.name` and write the run folder `out`.

    `dev` chooses the checkpoint and `task` judges start and result once; where not given they are held out of the pairs (see `make_plan`).
    `retain` asks for what the model could do before: start and result are compared on it, too, which changes no verdict (without it: the
    overlap of their nearest neighbours on texts outside the domain). All scores of the start are told to `progress` before the first step.
    `resume` goes on from the newest whole checkpoint of `out`, or starts where there is none. `inputs` (file -> hash) and
    `lineage` (what this run is a stage of) go to `run.json`; `where` says `file:line` of each pair, for `diverged.json`. Pairs of
    several sources are mixed as `mixture` says.

    Raises `BadInput` where `out` already holds something and `resume` is not asked for, `Mismatch` where it began with other
    inputs, `BadConfig`, `Missing`, `CannotWrite` (disk full, no permission; checkpoints intact) and `Diverged` (naming the step, the batch
    written to `diverged.json`). In the main thread SIGINT and SIGTERM finish the step, save, and raise `Interrupted` (a `KeyboardInterrupt`);
    the second one raises it at once.
    """
    run, config = Path(out), config or Config()
    check_config(config)
    check_watch(config)
    check_mining(config)
    started = _prepare_folder(run, resume)
    model = open_start(run / "start", encoder, config, started, progress)
    pairs, where = sound_pairs(pairs, where, model, progress)
    if isinstance(model, ImageEncoder):
        pairs = pictures_alone(pairs)
    lower = compute_dtype(config.compute.precision, model.device) == torch.bfloat16
    config = resolve(
        config,
        is_static=is_static(model),
        pairs=len(pairs),
        precision="bfloat16" if lower else "float32",
        is_fresh=is_small(model),
    )
    config = resolve_mixture(config, pairs)
    check_dims(config, training_width(model))
    plan = replace(make_plan(pairs, config, dev=dev, task=task), given=pairs, where=where)
    check_due(plan.pairs, config)
    if plan.note:
        progress("prepare", 0, 1, note=plan.note)
    teachers = open_teachers(config, progress)
    name = str(encoder) if isinstance(encoder, (str, Path)) else encoder.fingerprint()
    now = identity(pairs, config, name, dev=dev, task=task, teachers=teachers.fingerprints())
    if started:
        check_identity(run, now)
    else:
        _begin(run, model, plan, now, inputs or {}, lineage or {})
    start = judge_start(run, model, plan, retain, config, progress)
    work = replace(_plan_work(run, model, plan, teachers, config, progress), dev_start=start.dev)
    state = new_state(model, config)
    with sole_writer(run):
        if started:
            take_up(work, state)
        with holding(), computing(model, config.compute.precision, is_training=True):
            seconds, seen = _run_steps(work, state, plan)
    result = _judge_result(work, state, plan, start, retain, own_task=task is not None, seconds=seconds, seen=seen)
    _write_metrics(result)
    write_card(run)
    return result


def _judge_result(
    work: Work, state: State, plan: Plan, start: Baseline, retain: Task | None, *, own_task: bool, seconds: float, seen: int
) -> RunResult:
    """The kept weights against the start: on the judging task, and in what the start could do; and why, where it did not help."""
    run, config, progress = work.run, work.config, work.progress
    best = load_encoder(run / "model").to(state.encoder.device)
    trained = comparison = None
    start_kept = state.best_step == 0
    if plan.task is not None and start.task is not None:
        path = run / "trained.evaluation.json"
        trained = judge_trained(start.task, best, plan.task, path, config, progress, start_kept=start_kept)
        comparison = compare(trained, start.task, config.evaluation.metric)
    kept = measure_retention(run, best, retain, start.retain, plan, config, progress, start_kept=start_kept)
    metric = parse_metric(config.evaluation.metric).name
    facts = RunFacts(
        config=config,
        curve=state.dev_scores,
        best_step=state.best_step,
        steps=state.step,
        losses=read_losses(run / "steps.jsonl"),
        comparison=comparison,
        start_score=float(np.mean(start.task.metrics[metric])) if start.task else 0.0,
        judged=len(start.task.query_ids) if start.task else 0,
        chosen=len(plan.dev.queries) if plan.dev else 0,
        own_task=own_task,
        pairs=len(plan.pairs),
        distinct_documents=len({pair.positive for pair in plan.pairs}),
        cut_share=share_cut(work.documents, best.max_length),
        max_length=best.max_length,
        retention=kept,
    )
    return RunResult(
        run,
        config,
        len(plan.pairs),
        state.step,
        state.best_step,
        state.dev_scores,
        start.task,
        trained,
        comparison,
        plan.task,
        seconds,
        seen / seconds if seconds else 0.0,
        kept,
        say_stop(state, config, work.total),
        find_reasons(facts),
    )


def load_run_config(run: Path) -> Config:
    """The settings a run was trained with. Raises `BadInput` where there is no run, `Damaged` where its record is torn."""
    from nearfar.files import read_json

    return config_from_json(read_json(run / "run.json")["identity"]["config"])


def _prepare_folder(run: Path, resume: bool) -> bool:
    """Whether there is a run to go on with."""
    settle_folder(run / "start")
    if (run / "run.json").exists():
        if resume:
            return True
        raise BadInput(f"{run}: there is a run here already. Go on with it (--resume), or train into another folder.")
    # what a process killed before run.json was written may have left
    if run.exists() and not run.is_dir():
        raise BadInput(f"{run}: this is a file. Give a folder for the run.")
    others = (
        [p.name for p in run.iterdir() if p.name not in ("start", "data", "index", "task") and not p.name.startswith(".")]
        if run.exists()
        else []
    )
    if others:
        raise BadInput(f"{run}: the folder is not empty (it holds {others[0]!r}) and is no run. Train into another folder.")
    return False


def _begin(
    run: Path,
    model: AnyEncoder,
    plan: Plan,
    now: Mapping[str, Any],
    inputs: Mapping[str, str],
    lineage: Mapping[str, Any],
) -> None:
    """Write the start model and then `run.json`, whose presence says that the run has begun."""
    if not plan.pairs:
        raise BadInput("pairs: all were held out. Set evaluation.dev and evaluation.judge lower.")
    model.save(run / "start")
    record = {
        "format": FORMAT,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": now["encoder"],
        "start": model.fingerprint(),
        "kind": kind_of(model),
        "identity": dict(now),
        "inputs": dict(inputs),
        **({"lineage": dict(lineage)} if lineage else {}),
        "trained_on": len(plan.pairs),
        "held_out": plan.held_out,
        **({"without_negatives": plan.without_negatives} if plan.without_negatives else {}),
        "queries": {name: len(found.queries) for name, found in (("dev", plan.dev), ("task", plan.task)) if found},
        "machine": machine(),
    }
    write_json(run / "run.json", record)


def _plan_work(run: Path, model: AnyEncoder, plan: Plan, teachers: Teachers, config: Config, progress: Progress) -> Work:
    progress("prepare", 0, 1)
    table = build_table(taught_pairs(run, teachers.teacher, plan.pairs, progress), config)
    objective = Objective(config, guide_rows(run, teachers.guide, table, progress))
    queries, documents = prepare_items(model, table, config)
    labelled = read_labelled(config)
    mixture = plan_mixture(config, table)
    work = Work(run, config, table, mixture, objective, queries, documents, plan.dev, 0, 1, config.checkpoint.every, progress)
    total = sum(len(work.batches(epoch)) for epoch in range(config.epochs))
    progress("prepare", 1, 1)
    every = config.evaluation.every or max(1, math.ceil(total / 8))
    return replace(work, total=total, evaluate_every=every, labelled=labelled)


def _run_steps(work: Work, state: State, plan: Plan) -> tuple[float, int]:
    """All steps that are left; returns the seconds and the pairs of these steps."""
    kept = _Kept(work, state)
    try:
        if state.step == 0 and work.dev is not None:
            choose(work, state)
        return _steps_left(work, state, plan, kept)
    except Interrupted as stop:
        lost = f" {state.step - kept.step:,} steps after it are lost." if state.step > kept.step else ""
        with suppress(CannotWrite):
            note_event(work.run, "interrupted", signal=stop.signal, step=state.step, kept=kept.step)
        raise Interrupted(f"{stop} {kept.said}{lost} Go on with the same command and --resume.", stop.signal) from None
    except CannotWrite as error:
        raise CannotWrite(f"{error} {kept.said} Then go on with the same command and --resume.", error.number) from error


def _steps_left(work: Work, state: State, plan: Plan, kept: _Kept) -> tuple[float, int]:
    seconds, seen = 0.0, 0

    def heard(name: signal.Signals) -> None:
        # drawing may itself be what was interrupted
        with suppress(RuntimeError):
            note = f"{name.name}: finishing this step and saving it; once more to stop at once"
            work.progress("train", state.step, work.total, note=note)

    with (
        StepLog(work.run / "steps.jsonl") as log,
        Watch(work.run, work.config, step=state.step) as watch,
        stop_requests(heard) as stops,
    ):
        for epoch, rows in _batches_left(work, state.step):
            if is_stopped(work, state):
                break
            began = perf_counter()
            facts = step(work, state, rows, plan)
            mined = remine(work, state)
            seconds, seen = seconds + perf_counter() - began, seen + len(rows)
            last = state.step == work.total
            scored = last or state.step % work.evaluate_every == 0
            mined |= watch_labels(work, state) if scored else {}
            log.write({"step": state.step, "epoch": epoch, "pairs": len(rows), **facts, **mined})
            work.progress("train", state.step, work.total, loss=facts["loss"], rate=f"{seen / seconds:,.0f} pairs/s")
            scored = last or (work.dev is not None and scored)
            if scored:
                choose(work, state)
                last = last or is_stopped(work, state)
            dev = state.dev_scores[-1].score if scored and state.dev_scores else None
            watch.record(state.step, {**facts, **mined}, rate=seen / seconds, dev=dev)
            if last or kept.is_due() or stops:
                watch.flush()
                kept.save(log)
            if stops:
                raise Interrupted(f"stopped by {stops[0].name} after step {state.step:,} of {work.total:,}.", stops[0])
    if seen:
        note_event(work.run, "finished", step=state.step)
    return seconds, seen


def _batches_left(work: Work, done: int) -> Iterator[tuple[int, np.ndarray]]:
    """(epoch, rows) of every step after the first `done`."""
    first = 0
    for epoch in range(work.config.epochs):
        batches = work.batches(epoch)
        for rows in batches[max(0, done - first) :]:
            yield epoch, rows
        first += len(batches)


class _Kept:
    """What a kill cannot take any more: the newest checkpoint, and when the next one is due."""

    def __init__(self, work: Work, state: State) -> None:
        self._work, self._state = work, state
        self.step, self._clock = state.step, perf_counter()

    @property
    def said(self) -> str:
        if not self.step:
            return f"Nothing is kept yet but the start, in {self._work.run}."
        return f"All up to step {self.step:,} is kept in {checkpoint_path(self._work.run / 'checkpoints', self.step)}."

    def is_due(self) -> bool:
        # when a checkpoint is written changes no weight, so the clock may say
        if self._work.save_every is None:
            return perf_counter() - self._clock > SAVE_SECONDS
        return self._state.step % self._work.save_every == 0

    def save(self, log: StepLog) -> None:
        save_state(self._work, self._state, log.content())
        self.step, self._clock = self._state.step, perf_counter()


def _write_metrics(result: RunResult) -> None:
    systems = {e.system: e.summary() for e in (result.start, result.trained) if e is not None}
    write_json(
        result.run / "metrics.json",
        {
            "verdict": result.verdict,
            "systems": systems,
            "comparisons": [result.comparison.to_json()] if result.comparison else [],
            "steps": result.steps,
            "best_step": result.best_step,
            "dev": [found.to_json() for found in result.dev_scores],
            "retention": result.retention.to_json() if result.retention else None,
            "stopped": result.stopped,
            "conclusion": result.conclusion,
            "reasons": [reason._asdict() for reason in result.reasons],
        },
    )

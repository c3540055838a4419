"""Training: pairs in, a run folder out, whose weights depend on its inputs and settings alone.

Batches are a function of (seed, epoch) and dropout of (seed, step), so a run taken up from any checkpoint ends with the same weights,
bit for bit, as one left alone (same machine and thread count). The best model on the dev task is kept, the start among the candidates.
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.collate import collate
from nearfar.data.sampling import PairTable, epoch_batches
from nearfar.encoders import StaticEncoder, Tokens, TransformerEncoder, load_encoder
from nearfar.errors import BadInput, Diverged, Mismatch
from nearfar.evaluation import Comparison, Evaluation, compare, evaluate
from nearfar.files import settle_folder, write_json
from nearfar.losses.info_nce import info_nce
from nearfar.training.checkpoint import latest_checkpoint, save_checkpoint
from nearfar.training.config import Config, check_config, config_from_json, resolve
from nearfar.training.optimizer import AdamW, schedule
from nearfar.training.plan import FORMAT, Plan, check_identity, identity, machine, make_plan
from nearfar.types import Batch, Checkpoint, Inputs, Pair, Progress, Task, silent

TrainableEncoder = StaticEncoder | TransformerEncoder
STATIC_LENGTH = 256
"""Tokens a text is cut to by a table whose maker said nothing."""
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
    dev_scores: list[tuple[int, float]]
    start: Evaluation | None
    trained: Evaluation | None
    comparison: Comparison | None
    """Trained against start."""
    task: Task | None
    """What judged: as given, or held out of the pairs."""
    seconds: float
    """Spent in steps by this process, evaluation and saving apart."""
    pairs_per_second: float

    @property
    def verdict(self) -> str:
        """`improved`, `not shown`, `worse`, or `not judged`."""
        return self.comparison.verdict if self.comparison else "not judged"


@dataclass
class _State:
    """What moves while training."""

    encoder: TrainableEncoder
    parameters: dict[str, nn.Parameter]
    optimizer: AdamW
    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    dev_scores: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Work:
    """What stays the same while training."""

    run: Path
    config: Config
    table: PairTable
    queries: Inputs
    documents: Inputs
    dev: Task | None
    total: int
    evaluate_every: int
    save_every: int | None
    """None: one a minute."""
    progress: Progress


def train(
    pairs: Sequence[Pair],
    *,
    out: Path | str,
    encoder: str | Path | TrainableEncoder = "static",
    config: Config | None = None,
    task: Task | None = None,
    dev: Task | None = None,
    resume: bool = False,
    inputs: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> RunResult:
    """Train `encoder` (a name for `load_encoder`, or an encoder) on `pairs` by InfoNCE and write the run folder `out`.

    `dev` chooses the checkpoint and `task` judges start and result once; where not given they are held out of the pairs (see `make_plan`).
    `resume` goes on from the newest whole checkpoint of `out`, or starts where there is none. `inputs` (file -> hash) goes to `run.json`.

    Raises `BadInput` where `out` already holds something and `resume` is not asked for, `Mismatch` where it began with other
    inputs, `BadConfig`, and `Diverged` (naming the step, the batch written to `diverged.json`). On an interrupt the state is saved first.
    """
    run, config = Path(out), config or Config()
    check_config(config)
    started = _prepare_folder(run, resume)
    model = _open_start(run / "start", encoder, config, started, progress)
    config = resolve(config, is_static=isinstance(model, StaticEncoder), pairs=len(pairs))
    plan = make_plan(pairs, config, dev=dev, task=task)
    name = str(encoder) if isinstance(encoder, (str, Path)) else encoder.fingerprint()
    now = identity(pairs, config, name, dev=dev, task=task)
    if started:
        check_identity(run, now)
    else:
        _begin(run, model, plan, now, inputs or {})
    start = _judge(model, plan.task, run / "start.evaluation.json", "start", config, progress)
    work = _plan_work(run, model, plan, config, progress)
    state = _new_state(model, config)
    if started:
        _take_up(work, state)
    seconds, seen = _run_steps(work, state, plan)
    best = load_encoder(run / "model") if plan.task else model
    trained = _judge(best, plan.task, run / "trained.evaluation.json", "trained", config, progress, keep=False)
    comparison = compare(trained, start, config.evaluation.metric) if trained and start else None
    result = RunResult(
        run,
        config,
        len(plan.pairs),
        state.step,
        state.best_step,
        state.dev_scores,
        start,
        trained,
        comparison,
        plan.task,
        seconds,
        seen / seconds if seconds else 0.0,
    )
    _write_metrics(result)
    return result


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


def _open_start(
    folder: Path, encoder: str | Path | TrainableEncoder, config: Config, started: bool, progress: Progress
) -> TrainableEncoder:
    """The encoder as it is before the first step: on resume the copy in the run, so that a changed cache changes nothing."""
    if started:
        return load_encoder(folder)
    if isinstance(encoder, (StaticEncoder, TransformerEncoder)):
        return encoder
    model = load_encoder(encoder, dim=config.dim, max_length=config.max_length, progress=progress)
    if isinstance(model, StaticEncoder) and model.max_length is None:
        model = StaticEncoder(
            model.weight, model.tokenizer, max_length=STATIC_LENGTH, prompts=model.prompts, normalize=model.normalize
        )
    return model


def _begin(run: Path, model: TrainableEncoder, plan: Plan, now: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Write the start model and then `run.json`, whose presence says that the run has begun."""
    if not plan.pairs:
        raise BadInput("pairs: all were held out. Set evaluation.dev and evaluation.judge lower.")
    model.save(run / "start")
    record = {
        "format": FORMAT,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": now["encoder"],
        "start": model.fingerprint(),
        "kind": "static" if isinstance(model, StaticEncoder) else "transformer",
        "identity": dict(now),
        "inputs": dict(inputs),
        "trained_on": len(plan.pairs),
        "held_out": plan.held_out,
        "queries": {name: len(found.queries) for name, found in (("dev", plan.dev), ("task", plan.task)) if found},
        "machine": machine(),
    }
    write_json(run / "run.json", record)


def _plan_work(run: Path, model: TrainableEncoder, plan: Plan, config: Config, progress: Progress) -> _Work:
    progress("prepare", 0, 1)
    table = PairTable.build(plan.pairs)
    queries, documents = model.prepare(table.queries, "query"), model.prepare(table.documents, "document")
    assert config.batch_size is not None
    total = sum(len(epoch_batches(table, config.batch_size, seed=config.seed, epoch=e)) for e in range(config.epochs))
    evaluate_every = config.evaluation.every or max(1, math.ceil(total / 8))
    progress("prepare", 1, 1)
    return _Work(run, config, table, queries, documents, plan.dev, total, evaluate_every, config.checkpoint.every, progress)


def _new_state(model: TrainableEncoder, config: Config) -> _State:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if config.learn_temperature:
        parameters["log_temperature"] = nn.Parameter(torch.tensor(math.log(config.temperature), device=model.device))
    return _State(model, parameters, AdamW(parameters, config.optimizer))


def _run_steps(work: _Work, state: _State, plan: Plan) -> tuple[float, int]:
    """All steps that are left; returns the seconds and the pairs of these steps."""
    if state.step == 0 and work.dev is not None:
        _choose(work, state)
    seconds, seen, first, saved = 0.0, 0, 0, perf_counter()
    assert work.config.batch_size is not None
    with open(work.run / "steps.jsonl", "a", encoding="utf-8") as log, _interrupts() as interrupted:
        for epoch in range(work.config.epochs):
            batches = epoch_batches(work.table, work.config.batch_size, seed=work.config.seed, epoch=epoch)
            for rows in batches[max(0, state.step - first) :]:
                began = perf_counter()
                facts = _step(work, state, rows, plan)
                seconds, seen = seconds + perf_counter() - began, seen + len(rows)
                log.write(json.dumps({"step": state.step, "epoch": epoch, "pairs": len(rows), **facts}) + "\n")
                work.progress("train", state.step, work.total, loss=facts["loss"], rate=f"{seen / seconds:,.0f} pairs/s")
                last = state.step == work.total
                if last or (work.dev is not None and state.step % work.evaluate_every == 0):
                    _choose(work, state)
                # when a checkpoint is written changes no weight, so the clock may say
                due = perf_counter() - saved > SAVE_SECONDS if work.save_every is None else state.step % work.save_every == 0
                if last or due or interrupted:
                    log.flush()
                    _save(work, state)
                    saved = perf_counter()
                if interrupted:
                    raise KeyboardInterrupt
            first += len(batches)
    return seconds, seen


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect the first Ctrl-C instead of stopping in the middle of a step; the second one stops at once, as always."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:  # noqa: ARG001 - what signal calls
        caught.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _step(work: _Work, state: _State, rows: np.ndarray, plan: Plan) -> dict[str, float]:
    """One step: encode, InfoNCE, AdamW. Dropout draws from a generator seeded by (seed, step)."""
    config = work.config
    assert config.learning_rate is not None
    batch = collate(work.table, rows, work.queries, work.documents)
    rate = config.learning_rate * schedule(state.step, work.total, warmup=config.warmup, shape=config.optimizer.schedule)
    knob: float | Tensor = config.temperature
    if config.learn_temperature:
        knob = state.parameters["log_temperature"].exp()
    # dropout knows only the global generator: fork it, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[state.encoder.device] if state.encoder.device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([config.seed, state.step]).generate_state(1, np.uint64)[0] >> 1))
        state.encoder.train()
        queries, candidates = _encode(state.encoder, batch)
        if not (bool(torch.isfinite(queries.detach()).all()) and bool(torch.isfinite(candidates.detach()).all())):
            raise _diverged(work, state, rows, plan, math.nan)
        loss = info_nce(queries, candidates, _on(batch, state.encoder.device), temperature=knob).mean()
        loss.backward()
    value = float(loss.detach())
    norm = state.optimizer.step(rate) if math.isfinite(value) else math.nan
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise _diverged(work, state, rows, plan, value)
    state.step += 1
    return {"loss": value, "learning_rate": rate, "gradient_norm": norm, "temperature": float(torch.as_tensor(knob).detach())}


def _encode(encoder: TrainableEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Rows of queries and candidates; a table is read once for both, so that its gradient names each token once."""
    queries, candidates = batch.queries, batch.candidates
    assert isinstance(queries, Tokens)
    assert isinstance(candidates, Tokens)
    if isinstance(encoder, StaticEncoder):
        rows = encoder(Tokens.concat([queries, candidates]))
        return rows[: len(queries)], rows[len(queries) :]
    return encoder(queries), encoder(candidates)


def _on(batch: Batch, device: torch.device) -> Any:
    if device.type == "cpu":
        return batch.targets
    return replace(batch.targets, **{k: v.to(device) for k, v in vars(batch.targets).items() if v is not None})


def _diverged(work: _Work, state: _State, rows: np.ndarray, plan: Plan, loss: float) -> Diverged:
    path = work.run / "diverged.json"
    pairs = [{"query": plan.pairs[i].query, "positive": plan.pairs[i].positive} for i in rows.tolist()]
    write_json(path, {"step": state.step + 1, "loss": str(loss), "pairs": pairs})
    return Diverged(
        f"step {state.step + 1}: the loss is {loss} or its gradient is not finite. The batch is in {path}; the best model so far in "
        f"{work.run / 'model'}. Try a lower learning_rate (now {work.config.learning_rate}) or a higher temperature."
    )


def _choose(work: _Work, state: _State) -> None:
    """Score the dev task; where it is the best so far (or nothing can say), these weights become `model/`."""
    score = None
    if work.dev is not None:
        metric = work.config.evaluation.metric
        found = evaluate(state.encoder, work.dev, metrics=[metric], depth=100, progress=silent)
        score = float(np.mean(found.metrics[metric]))
        state.dev_scores.append((state.step, score))
        work.progress("dev", state.step, work.total, score=score)
    if score is None or state.best_score is None or score > state.best_score:
        state.best_step, state.best_score = state.step, score
        state.encoder.save(work.run / "model")


def _save(work: _Work, state: _State) -> None:
    tensors = {f"weights/{name}": p.detach() for name, p in state.parameters.items()} | state.optimizer.tensors()
    facts = {"best_step": state.best_step, "best_score": state.best_score, "dev_scores": state.dev_scores}
    keep = work.config.checkpoint.keep
    save_checkpoint(work.run / "checkpoints", Checkpoint(state.step, tensors, facts), keep=keep)


def _take_up(work: _Work, state: _State) -> None:
    """Set the state to the newest whole checkpoint, and the log to its step."""
    found, skipped = latest_checkpoint(work.run / "checkpoints")
    for sentence in skipped:
        work.progress("resume", 0, work.total, note=sentence)
    if found is not None:
        with torch.no_grad():
            for name, parameter in state.parameters.items():
                kept = found.tensors.get(f"weights/{name}")
                if kept is None or kept.shape != parameter.shape:
                    raise Mismatch(f"{work.run}: the checkpoint has no {name} of this shape. Train into another folder.")
                parameter.copy_(kept)
        state.optimizer.restore(found.tensors)
        facts: Any = found.state
        state.step, state.best_step, state.best_score = found.step, facts["best_step"], facts["best_score"]
        state.dev_scores = [(int(step), float(score)) for step, score in facts["dev_scores"]]
        if state.best_step == state.step:
            state.encoder.save(work.run / "model")
    work.progress("resume", state.step, work.total)
    _cut_log(work.run / "steps.jsonl", state.step)


def _cut_log(path: Path, step: int) -> None:
    """Keep the whole lines up to `step`: later ones are written again, and a torn last line goes."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    from nearfar.files import atomic_file

    with atomic_file(path, "w") as handle:
        handle.writelines(kept)


def _judge(
    model: TrainableEncoder,
    task: Task | None,
    path: Path,
    name: str,
    config: Config,
    progress: Progress,
    *,
    keep: bool = True,
) -> Evaluation | None:
    """The evaluation on the judging task; read back where an earlier process of this run wrote it (`keep`)."""
    if task is None:
        return None
    if keep and path.exists():
        return Evaluation.load(path)
    metrics = list(dict.fromkeys(["ndcg@10", "recall@10", "mrr@10", config.evaluation.metric]))
    found = evaluate(model, task, metrics=metrics, name=name, progress=progress)
    found.save(path)
    return found


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
            "dev": [{"step": step, "score": score} for step, score in result.dev_scores],
        },
    )

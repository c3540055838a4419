"""Before the first step: who trains, who chooses the checkpoint, who judges; and the record by which a run is known again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nearfar import __version__
from nearfar.data.split import split_pairs
from nearfar.data.tasks import task_from_pairs
from nearfar.data.text import agree, normalize
from nearfar.errors import BadInput, Mismatch
from nearfar.evaluation import fingerprint_task
from nearfar.files import read_json
from nearfar.training.config import Config
from nearfar.training.feeding import check_objective
from nearfar.training.objective import LOSSES, loss_weights
from nearfar.training.sources import check_sources
from nearfar.types import Pair, Picture, Task

FORMAT = "nearfar-run/1"
DEV_POOL = 1000
"""Documents at most that the dev queries search besides their own: they are searched many times a run, which must not outlast the training."""
FREE = ("checkpoint.", "watch.", "compute.keep_megabytes", "evaluation.outside_texts")
"""Settings that decide no weight: they may change when a run goes on."""


@dataclass(frozen=True)
class Plan:
    """Pairs to train on, a task that chooses the checkpoint, and a task that judges the run once; either may be absent."""

    pairs: list[Pair]
    dev: Task | None
    task: Task | None
    held_out: int
    """Pairs kept from training."""
    given: Sequence[Pair] = ()
    """All pairs as they were given, to number those that are named in an error."""
    where: Sequence[str] = ()
    """`file:line` of each given pair, where they came from a file."""
    without_negatives: int = 0
    """Pairs left out of training, since their loss learns from hard negatives and they have none."""

    @property
    def note(self) -> str:
        """What was left out, in a sentence; empty where nothing was."""
        count = self.without_negatives
        if not count:
            return ""
        of = f"{count:,} of {len(self.pairs) + count:,} pairs to train on"
        return f"{of} {agree(count, 'have')} no hard negatives, and the loss learns from these: left out"


def make_plan(pairs: Sequence[Pair], config: Config, *, dev: Task | None, task: Task | None) -> Plan:
    """Hold out what is not given: dev and judging queries come from the pairs, whole connected components at a time.

    Pairs without hard negatives whose loss learns from these are left out of training and counted: a rule of mining may leave any pair
    without. Raises as `hold_out`, and `BadInput` or `BadConfig` where the pairs lack what the losses need.
    """
    plan = _leave_out(hold_out(pairs, config, dev=dev, task=task), config)
    check_sources(plan.pairs, config)
    check_objective(plan.pairs, config)
    return plan


def _leave_out(plan: Plan, config: Config) -> Plan:
    """The plan without the pairs that lack the hard negatives their loss needs; where all of a loss lack them they stay, and are refused."""
    named = config.mixture.losses or {}

    def own(pair: Pair) -> str | None:
        return pair.source if pair.source in named else None

    having = {own(pair) for pair in plan.pairs if pair.negatives}
    wanting = {name for name in having if any("negatives" in LOSSES[loss].needs for loss in loss_weights(config, name))}
    kept = [pair for pair in plan.pairs if pair.negatives or own(pair) not in wanting]
    return replace(plan, pairs=kept, without_negatives=len(plan.pairs) - len(kept)) if len(kept) > 1 else plan


def hold_out(pairs: Sequence[Pair], config: Config, *, dev: Task | None, task: Task | None) -> Plan:
    """The pairs to train on, and the tasks made of those held out where none is given.

    Fewer than 40 pairs are all trained on: nothing could be said from four queries. So are pairs of a thing and itself (two views of it). Of graded pairs (where the loss reads scores) those in
    the highest quarter of the grades are what a search should find. Raises `BadInput` for fewer than two pairs, and where the pairs hang
    together so that nothing can be held out.
    """
    if len(pairs) < 2:
        raise BadInput(f"pairs: found {len(pairs)}. Training by contrast needs at least two.")
    for what in ("query", "positive"):
        if len({normalize(getattr(pair, what)) for pair in pairs}) == 1 and not any(pair.negatives for pair in pairs):
            raise BadInput(
                f"pairs: all {len(pairs):,} have the same {what}, {getattr(pairs[0], what)[:60]!r}, so none is another's negative. "
                "Check the columns, or give hard negatives."
            )
    wanted = config.evaluation
    # of a thing and itself no query can be judged: it finds itself by any encoder
    tenth = len(pairs) // 10 if len(pairs) >= 40 and not all(pair.query == pair.positive for pair in pairs) else 0
    for_dev = 0 if dev is not None else wanted.dev if wanted.dev is not None else min(tenth, 400)
    for_task = 0 if task is not None else wanted.judge if wanted.judge is not None else min(tenth, 1000)
    if for_dev + for_task > len(pairs) - 2:
        raise BadInput(
            f"evaluation.dev={for_dev} and evaluation.judge={for_task}: there are {len(pairs):,} pairs, and at least two are trained on. "
            "Set them lower, or give a task of your own."
        )
    training, chosen, judged = list(pairs), [], []
    if for_task:
        training, judged = split_pairs(training, for_task, seed=config.seed)
    if for_dev:
        training, chosen = split_pairs(training, for_dev, seed=config.seed + 1)
    chosen, judged = _alike(chosen, pairs, config), _alike(judged, pairs, config)
    pool = list(dict.fromkeys(pair.positive for pair in training))[: wanted.pool]
    return Plan(
        training,
        task_from_pairs("dev", chosen, pool[:DEV_POOL]) if chosen else dev,
        task_from_pairs("held out", judged, pool) if judged else task,
        len(pairs) - len(training),
    )


def _alike(held_out: Sequence[Pair], pairs: Sequence[Pair], config: Config) -> list[Pair]:
    """Those whose positive is one: all but the lower three quarters of grades, of the sources whose loss reads scores."""
    graded = {
        source
        for source in {pair.source for pair in pairs}
        if any({"score", "label"} & LOSSES[name].needs for name in loss_weights(config, source))
    }
    scores = [pair.score for pair in pairs if pair.source in graded and pair.score is not None]
    least = min(scores) + 0.75 * (max(scores) - min(scores)) if scores else 0.0
    return [pair for pair in held_out if pair.source not in graded or (pair.score is not None and pair.score >= least)]


def fingerprint_pairs(pairs: Sequence[Pair]) -> str:
    """SHA-256 over every field of every pair and the bytes of its pictures, in order, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for start in range(0, len(pairs), 1000):
        part = [
            [p.query, p.positive, p.negatives, p.group, p.score, p.source, *([p.teacher_scores] if p.teacher_scores else [])]
            for p in pairs[start : start + 1000]
        ]
        digest.update(json.dumps(part).encode())
        for pair in pairs[start : start + 1000]:
            for item in (pair.query, pair.positive, *pair.negatives):
                if isinstance(item, Picture):
                    digest.update(item.identity.encode(errors="surrogatepass"))
    return f"sha256:{digest.hexdigest()}"


def identity(
    pairs: Sequence[Pair],
    config: Config,
    encoder: str,
    *,
    dev: Task | None,
    task: Task | None,
    teachers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that decides the weights a run ends with, machine and versions apart: a run is taken up only where this is equal."""
    return {
        "config": config.to_json(),
        "encoder": encoder,
        "pairs": {"count": len(pairs), "content": fingerprint_pairs(pairs)},
        "dev": None if dev is None else fingerprint_task(dev),
        "task": None if task is None else fingerprint_task(task),
        **({"teachers": dict(teachers)} if teachers else {}),
    }


def check_identity(run: Path, now: Mapping[str, Any]) -> None:
    """Raise `Mismatch`, naming what changed, where a run is to go on with other inputs than it began with.

    When checkpoints are written and who watches decides no weight, so that may change.
    """
    told = read_json(run / "run.json")
    before = told.get("identity", {}) if isinstance(told, dict) else {}
    names = {
        "pairs": "the pairs",
        "encoder": "the encoder",
        "dev": "the dev task",
        "task": "the judging task",
        "teachers": "the guide or teacher",
    }
    changed = [what for key, what in names.items() if before.get(key) != now.get(key)]
    old, new = _flat(before.get("config", {})), _flat(now["config"])
    changed += [
        f"{key} (was {old.get(key)}, now {new.get(key)})"
        for key in {**new, **old}
        if old.get(key) != new.get(key) and not key.startswith(FREE)
    ]
    if changed:
        best = f" (from its best weights so far: --encoder {run})" if (run / "model").exists() else ""
        way = f"Give what it began with (see {run / 'run.json'}), or train into another folder{best}."
        if (run / "diverged.json").exists():
            way = f"It diverged, and would again with what it began with: train into another folder{best}."
        raise Mismatch(f"{run}: this run cannot go on: {', '.join(changed)} changed since it began. {way}")


def machine() -> dict[str, Any]:
    """Versions and hardware that a record should name."""
    import torch

    found: dict[str, Any] = {"nearfar": __version__, "python": sys.version.split()[0], "torch": torch.__version__}
    for name in ("numpy", "transformers", "tokenizers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found

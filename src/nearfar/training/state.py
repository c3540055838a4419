"""What moves while training and what stays the same, and how the moving part is saved and taken up again."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nearfar.data.sampling import Mixture, PairTable, epoch_batches
from nearfar.encoders import AnyEncoder
from nearfar.errors import Mismatch
from nearfar.files import atomic_file
from nearfar.training.checkpoint import latest_checkpoint, save_checkpoint
from nearfar.training.config import Config
from nearfar.training.dev import DevScore
from nearfar.training.objective import Objective, new_parameters
from nearfar.training.optimizer import AdamW
from nearfar.types import Checkpoint, Inputs, Progress, Task

TrainableEncoder = AnyEncoder


@dataclass
class State:
    """What moves while training."""

    encoder: TrainableEncoder
    parameters: dict[str, nn.Parameter]
    optimizer: AdamW
    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    dev_scores: list[DevScore] = field(default_factory=list)
    """The curve on the dev queries: which checkpoint is kept and whether the run is over follow from it alone."""


@dataclass(frozen=True)
class Work:
    """What stays the same while training."""

    run: Path
    config: Config
    table: PairTable
    mixture: Mixture
    objective: Objective
    queries: Inputs
    documents: Inputs
    dev: Task | None
    total: int
    evaluate_every: int
    save_every: int | None
    """None: one a minute."""
    progress: Progress

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The pair numbers of each step of one epoch."""
        assert self.config.batch_size is not None
        return epoch_batches(self.table, self.config.batch_size, seed=self.config.seed, epoch=epoch, mixture=self.mixture)


def new_state(model: TrainableEncoder, config: Config) -> State:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters |= new_parameters(config, model.device)
    return State(model, parameters, AdamW(parameters, config.optimizer))


def save_state(work: Work, state: State) -> None:
    tensors = {f"weights/{name}": p.detach() for name, p in state.parameters.items()} | state.optimizer.tensors()
    facts = {"best_step": state.best_step, "best_score": state.best_score, "dev_scores": state.dev_scores}
    keep = work.config.checkpoint.keep
    save_checkpoint(work.run / "checkpoints", Checkpoint(state.step, tensors, facts), keep=keep)


def take_up(work: Work, state: State) -> None:
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
        state.dev_scores = [DevScore(int(step), *scores) for step, *scores in facts["dev_scores"]]
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
    with atomic_file(path, "w") as handle:
        handle.writelines(kept)

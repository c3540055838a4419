"""What moves while training and what stays the same, and how the moving part is saved and taken up again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.sampling import Mixture, PairTable, epoch_batches
from nearfar.encoders import AnyEncoder, ImageTextEncoder
from nearfar.errors import Damaged, Mismatch
from nearfar.evaluation import Evaluation
from nearfar.files import clear_dead, read_json
from nearfar.training.checkpoint import latest_checkpoint, save_checkpoint, set_aside
from nearfar.training.config import Config
from nearfar.training.dev import DevScore
from nearfar.training.lars import Lars
from nearfar.training.objective import BIAS, LOG_TEMPERATURE, Objective, losses_of, new_parameters
from nearfar.training.optimizer import AdamW, Optimizer
from nearfar.training.queue import Past, new_past
from nearfar.training.record import note_event, restore_log
from nearfar.training.watched import Labelled
from nearfar.types import Checkpoint, Inputs, Progress, Task

MINED = "mined/"
"""Before the names of what a mining left, in a checkpoint."""


@dataclass
class State:
    """What moves while training."""

    encoder: AnyEncoder
    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer
    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    dev_scores: list[DevScore] = field(default_factory=list)
    """The curve on the dev queries: which checkpoint is kept and whether the run is over follow from it alone."""
    mined: dict[str, Tensor] = field(default_factory=dict)
    """The hard negatives of the newest mining while training (`training/remine.py`); empty where there was none."""
    past: Past | None = None
    """The slow copy of the encoder and its queue, where one is asked for (`queue.size`)."""


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
    dev_start: Evaluation | None = None
    """The start on the dev queries, which every checkpoint is compared with; None without them."""
    labelled: Labelled | None = None
    """What is watched by its labels; None: nothing."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The pair numbers of each step of one epoch."""
        assert self.config.batch_size is not None
        # of labels, batches want several of each; what else is alike is a false negative
        apart = losses_of(self.config) != {"sup_con"}
        told = {"seed": self.config.seed, "epoch": epoch, "mixture": self.mixture}
        return epoch_batches(self.table, self.config.batch_size, groups_apart=apart, **told)


def new_state(model: AnyEncoder, config: Config) -> State:
    """The state before the first step: what of the model trains, the loss's own parameters, and fresh moments."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters |= new_parameters(config, model.device)
    kind = Lars if config.optimizer.name == "lars" else AdamW
    return State(model, parameters, kind(parameters, config.optimizer), past=new_past(model, config))


def save_state(work: Work, state: State, log: bytes) -> Path:
    """Write a checkpoint of everything that moves, with the log so far; returns where. Raises `CannotWrite`, earlier ones intact."""
    tensors = {f"weights/{name}": p.detach() for name, p in state.parameters.items()} | state.optimizer.tensors()
    tensors |= {f"{MINED}{name}": tensor for name, tensor in state.mined.items()}
    tensors |= state.past.tensors() if state.past is not None else {}
    best = {"best_step": state.best_step, "best_score": state.best_score, "dev_scores": state.dev_scores}
    return save_checkpoint(
        work.run / "checkpoints", Checkpoint(state.step, tensors, best), log, keep=work.config.checkpoint.keep
    )


def save_model(work: Work, state: State) -> None:
    """Write the encoder as it is as the run's `model/`; a CLIP or a SigLIP of transformers takes the learned knobs of its loss along."""
    encoder, learned = state.encoder, state.parameters
    if isinstance(encoder, ImageTextEncoder) and encoder.hub is not None and LOG_TEMPERATURE in learned:
        hub = encoder.hub._replace(logit_scale=(-learned[LOG_TEMPERATURE].detach()).reshape(encoder.hub.logit_scale.shape))
        if hub.logit_bias is not None and BIAS in learned:
            hub = hub._replace(logit_bias=learned[BIAS].detach().reshape(hub.logit_bias.shape))
        encoder.hub = hub
    encoder.save(work.run / "model")


def take_up(work: Work, state: State) -> None:
    """Set the state to the newest whole checkpoint, and the log to its step; what is damaged is named, noted and set aside.

    Where no checkpoint is whole the run starts over from `start/`, and says so. Raises `Damaged` where `start/` itself is not what the run
    began with, `Mismatch` where the checkpoint is of other weights.
    """
    clear_dead(work.run)
    clear_dead(work.run / "checkpoints")
    _check_start(work, state)
    checkpoint, folder, log, skipped = latest_checkpoint(work.run / "checkpoints")
    for place, sentence in skipped.items():
        set_aside(place)
        note_event(work.run, "damaged", checkpoint=place.name, found=sentence)
        work.progress("resume", 0, work.total, note=f"damaged, not used: {sentence}")
    if checkpoint is not None:
        _restore(work, state, checkpoint)
        if state.best_step == state.step:
            save_model(work, state)
    restore_log(work.run / "steps.jsonl", log)
    (work.run / "diverged.json").unlink(missing_ok=True)
    note_event(work.run, "resumed", step=state.step, checkpoint=folder.name if folder else None)
    work.progress("resume", state.step, work.total, note=_taken_up(work, state, skipped=bool(skipped)))


def _taken_up(work: Work, state: State, *, skipped: bool) -> str:
    if state.step:
        return f"going on after step {state.step:,} of {work.total:,}"
    why = "no checkpoint is whole" if skipped else "there is no checkpoint yet"
    return f"{why}: starting over from {work.run / 'start'}"


def _check_start(work: Work, state: State) -> None:
    """What is not trained comes from `start/` on resume, so it has to be what it was."""
    told = read_json(work.run / "run.json").get("start")
    if told is not None and state.encoder.fingerprint() != told:
        raise Damaged(
            f"{work.run / 'start'}: this is not the encoder the run began with (its fingerprint is not that of run.json). "
            "The run cannot go on exactly: train into another folder."
        )


def _restore(work: Work, state: State, checkpoint: Checkpoint) -> None:
    found = checkpoint.tensors
    own = {f"weights/{name}": p for name, p in state.parameters.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            kept = found.get(name)
            if kept is None or kept.shape != tensor.shape:
                what = name.partition("/")[2]
                raise Mismatch(f"{work.run}: the checkpoint has no {what} of this shape. Train into another folder.")
            tensor.copy_(kept)
    state.mined = {name.removeprefix(MINED): tensor for name, tensor in found.items() if name.startswith(MINED)}
    state.optimizer.restore(found)
    if state.past is not None:
        state.past.restore(found)
    facts: Any = checkpoint.state
    state.step, state.best_step, state.best_score = checkpoint.step, facts["best_step"], facts["best_score"]
    state.dev_scores = [DevScore(int(step), *scores) for step, *scores in facts["dev_scores"]]

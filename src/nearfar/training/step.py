"""One step: encode the batch, the loss over all of it, every gradient, AdamW."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.collate import collate
from nearfar.encoders import StaticEncoder, Tokens
from nearfar.losses.info_nce import info_nce
from nearfar.training.diverged import diverged
from nearfar.training.optimizer import schedule
from nearfar.training.plan import Plan
from nearfar.training.state import State, TrainableEncoder, Work
from nearfar.types import Batch


def step(work: Work, state: State, rows: np.ndarray, plan: Plan) -> dict[str, float]:
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
            raise diverged(work, state, rows, plan, math.nan)
        loss = info_nce(queries, candidates, _on(batch, state.encoder.device), temperature=knob).mean()
        loss.backward()
    value = float(loss.detach())
    norm = state.optimizer.step(rate) if math.isfinite(value) else math.nan
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise diverged(work, state, rows, plan, value)
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

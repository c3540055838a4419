"""One step: encode the batch, the loss over all of it, every gradient, AdamW."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nearfar.data.collate import collate
from nearfar.encoders import StaticEncoder, Tokens
from nearfar.errors import Diverged
from nearfar.files import write_json
from nearfar.training.optimizer import schedule
from nearfar.training.plan import Plan
from nearfar.training.state import State, TrainableEncoder, Work
from nearfar.types import Batch


def step(work: Work, state: State, rows: np.ndarray, plan: Plan) -> dict[str, float | str]:
    """One step: encode, the loss, AdamW. Dropout draws from a generator seeded by (seed, step)."""
    config = work.config
    assert config.learning_rate is not None
    batch = collate(work.table, rows, work.queries, work.documents).to(state.encoder.device)
    rate = config.learning_rate * schedule(state.step, work.total, warmup=config.warmup, shape=config.optimizer.schedule)
    # dropout knows only the global generator: fork it, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[state.encoder.device] if state.encoder.device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([config.seed, state.step]).generate_state(1, np.uint64)[0] >> 1))
        state.encoder.train()
        queries, candidates = _encode(state.encoder, batch)
        if not (bool(torch.isfinite(queries.detach()).all()) and bool(torch.isfinite(candidates.detach()).all())):
            raise _diverged(work, state, rows, plan, math.nan)
        loss = work.objective(queries, candidates, batch, state.parameters)
        loss.backward()
    value = float(loss.detach())
    assert batch.facts is not None
    source = batch.facts.source
    knobs = work.objective.knobs(source, state.parameters)  # as this step used them
    norm = state.optimizer.step(rate) if math.isfinite(value) else math.nan
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise _diverged(work, state, rows, plan, value)
    state.step += 1
    told: dict[str, float | str] = {"loss": value, "learning_rate": rate, "gradient_norm": norm, **knobs}
    return told | ({"source": source} if source is not None and work.mixture.one_source else {})


def _encode(encoder: TrainableEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Rows of queries and candidates; a table is read once for both, so that its gradient names each token once."""
    queries, candidates = batch.queries, batch.candidates
    assert isinstance(queries, Tokens)
    assert isinstance(candidates, Tokens)
    if isinstance(encoder, StaticEncoder):
        rows = encoder(Tokens.concat([queries, candidates]))
        return rows[: len(queries)], rows[len(queries) :]
    return encoder(queries), encoder(candidates)


def _diverged(work: Work, state: State, rows: np.ndarray, plan: Plan, loss: float) -> Diverged:
    path = work.run / "diverged.json"
    pairs = [{"query": plan.pairs[i].query, "positive": plan.pairs[i].positive} for i in rows.tolist()]
    write_json(path, {"step": state.step + 1, "loss": str(loss), "pairs": pairs})
    return Diverged(
        f"step {state.step + 1}: the loss is {loss} or its gradient is not finite. The batch is in {path}; the best model so far in "
        f"{work.run / 'model'}. Try a lower learning_rate (now {work.config.learning_rate}) or a higher temperature."
    )

"""One step: encode the batch, the loss over all of it, every gradient, AdamW."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nearfar.data.collate import collate
from nearfar.encoders import AnyEncoder, is_static, refresh_copies
from nearfar.encoders.computing import pads, training_width
from nearfar.encoders.pixels import join
from nearfar.training.caching import Side, accumulate
from nearfar.training.diverged import diverged
from nearfar.training.left_out import guide_left_out, left_out_share
from nearfar.training.objective import clamp_parameters
from nearfar.training.optimizer import schedule
from nearfar.training.plan import Plan
from nearfar.training.remine import mined_table
from nearfar.training.state import State, Work
from nearfar.types import Inputs, Targets


def step(work: Work, state: State, rows: np.ndarray, plan: Plan) -> dict[str, float | str]:
    """One step: encode, the loss, AdamW. Dropout draws from torch's generator, seeded by (seed, step, micro-batch)."""
    config = work.config
    assert config.learning_rate is not None
    table = mined_table(work.table, state)
    batch = collate(table, rows, work.queries, work.documents, with_ids=state.past is not None).to(state.encoder.device)
    past, keys = state.past, None
    seed = int(np.random.SeedSequence([config.seed, state.step]).generate_state(1, np.uint64)[0] >> 2)
    if past is not None:
        keys = past.keys(batch.candidates, config.compute.micro_tokens, seed=seed ^ 1)
        batch = replace(batch, targets=past.extend(batch.targets, len(batch.candidates)))
    rate = config.learning_rate * schedule(state.step, work.total, warmup=config.warmup, shape=config.optimizer.schedule)
    state.encoder.train()

    def loss(sides: Sequence[Tensor]) -> Tensor:
        rows = sides[0] if len(sides) == 1 else torch.cat(list(sides))[order]
        queries, candidates = rows[: len(batch.queries)], rows[len(batch.queries) :] if keys is None else keys
        if not all(bool(torch.isfinite(side.detach()).all()) for side in sides):
            return queries.new_full((), math.nan)
        memory = None if past is None else past.queue.rows
        return work.objective(queries, candidates, batch, state.parameters, memory)

    sides, order = _sides(state.encoder, [batch.queries] if keys is not None else [batch.queries, batch.candidates])
    is_table, told = is_static(state.encoder), config.compute
    keep = None if told.keep_megabytes is None else told.keep_megabytes << 20
    found = accumulate(
        sides,
        loss,
        seed=seed,
        keep_bytes=sys.maxsize if is_table else keep,
        micro_tokens=sys.maxsize if is_table else told.micro_tokens,
        device=state.encoder.device,
    )
    assert batch.facts is not None
    source = batch.facts.source
    knobs = work.objective.knobs(source, state.parameters)  # as this step used them
    norm = state.optimizer.step(rate) if math.isfinite(found.loss) else math.nan
    if not (math.isfinite(found.loss) and math.isfinite(norm)):
        raise diverged(work, state, rows, plan, found.loss)
    clamp_parameters(state.parameters, config)
    refresh_copies(state.encoder)
    if past is not None and keys is not None:
        past.push(state.encoder, keys, _of_batch(batch.targets, len(keys)))
    state.step += 1
    masked = left_out_share(batch.targets, len(batch.queries), len(batch.candidates))
    facts: dict[str, float | str] = {
        "loss": found.loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        **knobs,
        "left_out": masked,
    }
    if (guide := work.objective.guide_of(batch.facts)) is not None:
        facts["guide_left_out"] = guide_left_out(*guide, batch.targets, margin=config.loss.margin or 0.0)
    return facts | ({"source": source} if source is not None and work.mixture.one_source else {})


def _of_batch(targets: Targets, count: int) -> Targets:
    """What targets say of the batch's own columns, those of a memory apart."""
    items, groups = targets.column_items, targets.column_groups
    return Targets(
        column_items=None if items is None else items[:count], column_groups=None if groups is None else groups[:count]
    )


def _sides(encoder: AnyEncoder, inputs: Sequence[Inputs]) -> tuple[list[Side], Tensor]:
    """Queries and candidates as one side for each kind of input, and the order [b + n] that brings the rows of all sides back to theirs.

    Texts of like length are together, and a table is read once, so that its gradient names each token once.
    """
    kinds, order = join(inputs)
    if len(kinds) == 1 and not (np.diff(order) == 1).all():
        kinds, order = [kinds[0].select(order)], np.arange(len(order))
    sides = [Side(encoder, kind, training_width(encoder), pads(encoder)) for kind in kinds]
    return sides, torch.from_numpy(order).to(encoder.device)

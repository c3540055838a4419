"""When a loss or a weight is not finite any more: what is written down about the step, and what can be done now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.embedding import embed
from nearfar.errors import Diverged
from nearfar.files import write_json
from nearfar.training.checkpoint import latest_checkpoint
from nearfar.training.plan import Plan
from nearfar.training.record import note_event
from nearfar.training.state import State, Work


def diverged(work: Work, state: State, rows: np.ndarray, plan: Plan, loss: float) -> Diverged:
    """Write `diverged.json` (the batch's pairs with their numbers and lines, the first parameter that is not finite) and say what to do."""
    step, path = state.step + 1, work.run / "diverged.json"
    found = latest_checkpoint(work.run / "checkpoints")
    weights = first_not_finite(state.parameters)
    gradients = first_not_finite({name: p.grad for name, p in state.parameters.items() if p.grad is not None})
    pairs = _pairs(state, rows, plan)
    facts = {
        "step": step,
        "loss": str(loss),
        "learning_rate": work.config.learning_rate,
        "parameter_not_finite": weights,
        "gradient_not_finite": gradients,
        "checkpoint": str(found.folder.relative_to(work.run)) if found.folder else None,
        "pairs": pairs,
    }
    write_json(path, facts)
    note_event(work.run, "diverged", step=step, loss=str(loss))
    suspects = [str(pair.get("where", pair["pair"])) for pair in pairs if not pair["finite"]]
    culprit = f"The parameter {weights} is not finite. " if weights else ""
    if suspects and len(suspects) < len(pairs):
        culprit += f"Pairs whose own vectors are not finite: {', '.join(suspects[:5])}{', ...' if len(suspects) > 5 else ''}. "
    kept = f"The checkpoint of step {found.checkpoint.step} is whole. " if found.checkpoint else "There is no checkpoint yet. "
    return Diverged(
        f"step {step}: the loss is {loss} or its gradient is not finite. {culprit}The batch is in {path}. {kept}"
        f"To resume with the same settings comes to the same step. {_remedy(work)}"
    )


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, with how many; None where there is none."""
    for name, tensor in tensors.items():
        values = tensor.detach()
        values = values.coalesce().values() if values.is_sparse else values
        count = int((~torch.isfinite(values)).sum())
        if count:
            return f"{name} ({count:,} of {values.numel():,} numbers)"
    return None


def _remedy(work: Work) -> str:
    start = f" from its best weights (--encoder {work.run})" if (work.run / "model").exists() else ""
    return (
        f"Train into a new folder{start} with a lower learning_rate (now {work.config.learning_rate}) or a higher temperature "
        f"(now {work.config.temperature})."
    )


def _pairs(state: State, rows: np.ndarray, plan: Plan) -> list[dict[str, Any]]:
    """The pairs of the batch: `pair` counts from 1 among the pairs given, `where` is file and line where they came from a file."""
    numbers = {id(pair): number for number, pair in enumerate(plan.given)}
    chosen = [plan.pairs[row] for row in rows.tolist()]
    finite = np.ones(len(chosen), dtype=bool)
    # a spoiled table makes all rows NaN; where a few texts do it, they are named
    for role, texts in (("query", [p.query for p in chosen]), ("document", [p.positive for p in chosen])):
        finite &= np.isfinite(embed(state.encoder, texts, role=role)).all(axis=1)  # pyright: ignore[reportArgumentType]
    found = []
    for row, pair, good in zip(rows.tolist(), chosen, finite.tolist(), strict=True):
        number = numbers.get(id(pair))
        told: dict[str, Any] = {"pair": row + 1 if number is None else number + 1, "finite": good}
        if number is not None and number < len(plan.where):
            told["where"] = plan.where[number]
        told |= {"query": pair.query, "positive": pair.positive}
        extra = {"negatives": list(pair.negatives), "group": pair.group, "source": pair.source}
        found.append(told | {name: value for name, value in extra.items() if value})
    return found

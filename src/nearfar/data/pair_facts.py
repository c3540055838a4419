"""What else a row says of its pair: a teacher's scores, and where its hard negatives came from."""

from __future__ import annotations

import json
from typing import Any

from nearfar.data.formats import Row
from nearfar.errors import BadInput
from nearfar.types import MinedNegative


def teacher_scores(row: Row, column: str, negatives: int) -> tuple[float, ...]:
    """The teacher's scores of the positive and of each hard negative. Raises `BadInput` where there are not so many."""
    value = row.values.get(column)
    if value in (None, ""):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    try:
        scores = tuple(float(number) for number in value)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise BadInput(f"{row.where}: '{column}' is {str(row.values[column])[:40]!r}, expected a list of numbers.") from None
    if len(scores) != negatives + 1 or not all(abs(score) < float("inf") for score in scores):
        raise BadInput(
            f"{row.where}: '{column}' holds {len(scores)} numbers, expected {negatives + 1} finite ones: the positive's, then one for each of "
            f"{negatives} hard negatives."
        )
    return scores


def mined_of(row: Row, column: str, negatives: int) -> tuple[MinedNegative, ...]:
    """Where each hard negative came from. Raises `BadInput` for what `nearfar mine` did not write, and where there are not so many."""
    value = row.values.get(column)
    if value in (None, "", []):
        return ()
    try:
        told = json.loads(value) if isinstance(value, str) else value
        found = tuple(
            MinedNegative(str(one["source"]), int(one["rank"]), _number(one.get("score")), _number(one.get("margin")))
            for one in told  # type: ignore[union-attr]
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        raise BadInput(
            f"{row.where}: '{column}' is {str(value)[:60]!r}, expected a list with source, rank, score and margin of each hard negative, as "
            f"`nearfar mine` writes it. Drop the column '{column}' if something else wrote it."
        ) from None
    if len(found) != negatives:
        raise BadInput(
            f"{row.where}: '{column}' tells of {len(found)} hard negatives, and there are {negatives}. Drop the column '{column}' where "
            "negatives were added or taken out by hand."
        )
    return found


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not abs(number) < float("inf"):
        raise ValueError(value)
    return number

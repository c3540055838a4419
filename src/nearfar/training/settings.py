"""How a setting is written: a default with its meaning beside it. And what a run is told about mining while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, meaning: str) -> Any:
    """A field of a settings class."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class MiningConfig:
    """Hard negatives found anew by the model as it is (ANCE: Xiong 2020, arXiv 2007.00808); see `docs/negatives.md`."""

    every: int | None = setting(None, "steps between two minings of hard negatives by the model as it is (none: never)")
    count: int = setting(1, "of mining: hard negatives for each pair")
    depth: int = setting(50, "of mining: how deep the search looks")
    skip_top: int = setting(0, "of mining: first ranks passed over")
    below_positive: float | None = setting(0.95, "of mining: dropped above this share of the positive's score (none: off)")

"""What a report shows, as plain facts; any part may be absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from nearfar.evaluation import Comparison


class Score(NamedTuple):
    """A mean over queries with its 95 % interval."""

    mean: float
    low: float
    high: float


class System(NamedTuple):
    """A system and its score by metric."""

    name: str
    scores: Mapping[str, Score]


class StepPoint(NamedTuple):
    """One step of training."""

    step: int
    loss: float
    learning_rate: float


class Change(NamedTuple):
    """A query that moved: its text, the right document, its rank before and after (None: not found), what stood first instead."""

    query: str
    relevant: str
    before: int | None
    after: int | None
    instead: str


class MapPoint(NamedTuple):
    """One text on the embedding map."""

    x: float
    y: float
    group: str
    text: str


class Tile(NamedTuple):
    """One picture (or text) of a row of a grid, what stands below it, and whether it is right, wrong, or neither."""

    item: str
    below: str = ""
    mark: Literal["right", "wrong", ""] = ""


class GridRow(NamedTuple):
    """A query (text or picture), what is said of it, and its tiles."""

    query: str
    said: str
    tiles: Sequence[Tile]


class Grid(NamedTuple):
    """A section of rows of pictures."""

    title: str
    caption: str
    rows: Sequence[GridRow]


class Retained(NamedTuple):
    """What is left of what the start could do: on a retention task, or the overlap of each text's `neighbours` nearest, 0..1."""

    sentences: Sequence[str]
    systems: Sequence[System] = ()
    differences: Sequence[Comparison] = ()
    overlap: Score | None = None
    neighbours: int = 0


@dataclass(frozen=True)
class Report:
    """A run (or an evaluation) as a reader sees it. Empty parts become a sentence that says they are empty."""

    title: str
    subtitle: str = ""
    verdict: Sequence[str] = ()
    """A sentence each."""
    systems: Sequence[System] = ()
    differences: Sequence[Comparison] = ()
    steps: Sequence[StepPoint] = ()
    dev_scores: Sequence[tuple[int, float]] = ()
    dev_intervals: Sequence[tuple[int, float, float]] = ()
    """Step, and the interval of the difference to the start (the first of `dev_scores`)."""
    best_step: int | None = None
    reasons: Sequence[tuple[str, str]] = ()
    """Where it did not help: what was found, what to try."""
    retained: Retained | None = None
    gained: Sequence[Change] = ()
    lost: Sequence[Change] = ()
    changed_against: str = ""
    grids: Sequence[Grid] = ()
    """Pictures: they are drawn into the page, small."""
    points: Sequence[MapPoint] = ()
    settings: Sequence[tuple[str, str, str]] = ()
    """Name, value, meaning."""
    inputs: Sequence[tuple[str, str]] = ()
    machine: Mapping[str, object] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    next_steps: Sequence[str] = ()
    """Commands."""

"""Where a model comes from: the run that made it, and the runs before that, as their records tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nearfar.errors import Damaged
from nearfar.exporting.record import shown_name
from nearfar.files import read_json

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""What `minilm` and `static` are called on the hub."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Ancestor(NamedTuple):
    """What a run started from: an earlier run, or a model that is none (`verdict` is None then)."""

    name: str
    fingerprint: str
    """Of the model as it was when the run began."""
    verdict: str | None
    is_same: bool
    """Whether the earlier run's model still is that model, as far as it recorded."""


@dataclass(frozen=True)
class Origin:
    """A run's records, and its line of ancestors, the nearest first."""

    run: Path
    record: Mapping[str, Any]
    """`run.json`."""
    metrics: Mapping[str, Any] | None
    """`metrics.json`; None where the run has not ended."""
    ancestors: tuple[Ancestor, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings, as the run recorded them."""
        return self.record.get("identity", {}).get("config", {})


def read_origin(name: str | Path) -> Origin | None:
    """The run a model is of (a run folder or the `model/` in it); None for any other. Raises `Damaged` where a record is torn."""
    run = _run_of(Path(str(name)))
    if run is None:
        return None
    return Origin(run, _object(run / "run.json"), _metrics(run), tuple(_ancestors(run)))


def base_model(name: str | Path, origin: Origin | None) -> str | None:
    """The pretrained model at the root of it all, as the hub calls it; None where that is not known."""
    first = str(name) if origin is None else origin.ancestors[-1].name if origin.ancestors else ""
    if first in ("minilm", "static"):
        return MINILM
    return first if _HUB_ID.fullmatch(first) and not Path(first).exists() else None


def _ancestors(run: Path) -> list[Ancestor]:
    found: list[Ancestor] = []
    seen = {run.resolve()}
    while True:
        record = _object(run / "run.json")
        called, start = str(record.get("encoder", "unknown")), str(record.get("start", "unknown"))
        # a name is as it was given: from where the command ran, or beside the run
        before = next((r for place in (Path(called), run.parent / called) if (r := _run_of(place)) is not None), None)
        if before is None or before.resolve() in seen:
            found.append(Ancestor(called if _HUB_ID.fullmatch(called) else shown_name(called), start, None, False))
            return found
        seen.add(before.resolve())
        metrics = _metrics(before) or {}
        found.append(Ancestor(shown_name(before), start, str(metrics.get("verdict", "unfinished")), _model_of(before) == start))
        run = before


def _run_of(path: Path) -> Path | None:
    if (path / "run.json").exists():
        return path
    return path.parent if path.name == "model" and (path.parent / "run.json").exists() else None


def _metrics(run: Path) -> Mapping[str, Any] | None:
    return _object(run / "metrics.json") if (run / "metrics.json").exists() else None


def _model_of(run: Path) -> str | None:
    """The fingerprint of a run's model, where its evaluation recorded it."""
    path = run / "trained.evaluation.json"
    return _object(path).get("model_fingerprint") if path.exists() else None


def _object(path: Path) -> Mapping[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise Damaged(f"{path}: found a {type(found).__name__}, expected a JSON object. Restore the file.")
    return found

"""What a run writes while it runs: `steps.jsonl`, a line a step, the same however often it was killed; `events.jsonl`, what befell it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from nearfar.files import atomic_file, refusals


class StepLog:
    """`steps.jsonl`, open to take a line a step. A context: closing makes it durable."""

    def __init__(self, path: Path) -> None:
        """Go on with the file at `path`, or begin it. Raises `CannotWrite`."""
        self._path = path
        with refusals(path):
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by __exit__

    def write(self, facts: Mapping[str, object]) -> None:
        """Append one line, at once, so that it can be watched. Raises `CannotWrite` where it does not fit."""
        line = json.dumps(facts).encode() + b"\n"
        with refusals(self._path):
            while line:
                # a disk that is nearly full takes a part, and refuses the rest
                line = line[self._file.write(line) or 0 :]

    def content(self) -> bytes:
        """All lines so far, as a checkpoint keeps them."""
        self._file.seek(0)
        return self._file.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file, refusals(self._path):
            if kind is None:
                os.fsync(self._file.fileno())


def restore_log(path: Path, content: bytes) -> None:
    """Make the log what a checkpoint kept: later lines are written again, and a torn, cut or doubled line goes."""
    if not path.exists() or path.read_bytes() != content:
        with atomic_file(path) as handle:
            handle.write(content)


def note_event(run: Path, event: str, **facts: object) -> None:
    """Append what befell the run (resumed, damaged, interrupted, diverged, finished) with its time to `events.jsonl`.

    Raises `CannotWrite`; a line torn by a kill stands alone, and the next one begins anew.
    """
    path = run / "events.jsonl"
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}, ensure_ascii=False)
    with refusals(path), open(path, "a+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - 1))
        torn = size > 0 and handle.read(1) != b"\n"
        handle.write((b"\n" if torn else b"") + line.encode() + b"\n")


def read_events(run: Path) -> list[dict[str, object]]:
    """The events of a run, the oldest first; torn lines are passed over, since they are notes and decide nothing."""
    path = run / "events.jsonl"
    found: list[dict[str, object]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found

"""What is seen while waiting: one live bar per stage on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import IO

from nearfar.types import Progress

LINE_SECONDS = 5.0
"""Elsewhere than on a terminal: at most one line in so many seconds, besides the last of a stage."""


@contextmanager
def shown(*, quiet: bool = False, stream: IO[str] | None = None) -> Iterator[Progress]:
    """A `Progress` that draws; leave the block to put the terminal in order."""
    out = stream or sys.stderr
    if quiet:
        yield _Lines(out, quiet=True)
    elif out.isatty():
        with _bars(out) as bars:
            yield bars
    else:
        yield _Lines(out)


class _Lines:
    """Plain lines: `train 12/48, loss 3.214, 20,067 pairs/s, 9 s left`, and nothing of what is over in no time."""

    def __init__(self, out: IO[str], *, quiet: bool = False) -> None:
        self._out, self._quiet = out, quiet
        self._began: dict[str, float] = {}
        self._said = perf_counter()
        self._kept: dict[str, float | str] = {}

    def __call__(self, stage: str, done: int, total: int, **facts: float | str) -> None:
        now = perf_counter()
        if "note" in facts:
            print(f"{stage}: {facts['note']}", file=self._out, flush=True)
            return
        if stage == "dev":
            # no line of its own: the score stands beside the training it belongs to
            self._kept["dev"] = facts.get("score", 0.0)
            return
        if done == 0 or stage not in self._began:
            self._began[stage] = now
            self._kept.clear()
        began = self._began[stage]
        over = done >= total and now - began >= 1
        if self._quiet or done == 0 or not (over or now - self._said >= LINE_SECONDS):
            return
        self._said = now
        words = [f"{stage} {done:,}/{total:,}", *_facts({**facts, **self._kept} if stage == "train" else facts)]
        left = (now - began) / done * (total - done)
        words.append(f"{left:,.0f} s left" if done < total else f"{now - began:,.0f} s")
        print(", ".join(words), file=self._out, flush=True)


def _facts(facts: dict[str, float | str]) -> list[str]:
    shown_as = {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in facts.items()}
    return [value if name == "rate" else f"{name} {value}" for name, value in shown_as.items()]


@contextmanager
def _bars(out: IO[str]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=out), transient=False) as bars:
        tasks: dict[str, TaskID] = {}
        kept: dict[str, float | str] = {}

        def show(stage: str, done: int, total: int, **facts: float | str) -> None:
            if "note" in facts:
                bars.console.print(f"{stage}: {facts['note']}", markup=False)
                return
            if stage == "dev":
                # no bar of its own: the score stands beside the training it belongs to
                kept["dev"] = facts.get("score", 0.0)
                return
            if stage not in tasks or (done == 0 and bars.tasks[tasks[stage]].finished):
                tasks[stage] = bars.add_task(stage, total=total, facts="")
                kept.clear()
            words = ", ".join(_facts({**facts, **kept} if stage == "train" else facts))
            bars.update(tasks[stage], completed=done, total=total, facts=words)

        yield show

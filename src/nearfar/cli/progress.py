"""What is seen while waiting: one live bar per stage on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import IO

from nearfar.types import Progress

LINE_SECONDS = 5.0
"""Elsewhere than on a terminal: at most one line in so many seconds, besides the last of a stage."""
SMOOTHING = 0.9
"""The loss that is shown is a running mean: of each step, this share of what was shown before."""


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


class _Stage:
    """One stage under way: where it began, and what stands beside it."""

    def __init__(self, done: int, now: float) -> None:
        self.first, self.latest, self.began = done, done, now
        self._loss: float | None = None
        self._dev: tuple[float, float] | None = None  # (latest, best)

    def add_dev(self, score: float) -> None:
        """A dev score, to stand beside the steps from now on."""
        self._dev = (score, max(score, self._dev[1]) if self._dev else score)

    def words(self, facts: Mapping[str, float | str]) -> list[str]:
        """What is worth a look, in few words: smoothed loss, rate, dev score and the best of them."""
        found = dict(facts)
        loss = found.get("loss")
        if isinstance(loss, float):
            self._loss = loss if self._loss is None else SMOOTHING * self._loss + (1 - SMOOTHING) * loss
            found["loss"] = self._loss
        if self._dev:
            latest, best = self._dev
            found["dev"] = f"{latest:.4g}" if latest == best else f"{latest:.4g} (best {best:.4g})"
        told = {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in found.items()}
        return [value if name == "rate" else f"{name} {value}" for name, value in told.items()]

    def time(self, done: int, total: int, now: float) -> list[str]:
        """What is left, by the parts done since the stage was first heard of (those before a resume took no time of it); then what it took."""
        took = now - self.began
        if done >= total:
            return [duration(took)]
        parts = done - self.first
        return [f"{duration(took / parts * (total - done))} left"] if parts > 0 else []


class _Stages(dict[str, _Stage]):
    """The stages by name. One that is heard of with less done than before is under way anew (the next of several runs): its time begins again."""

    def at(self, stage: str, done: int, now: float) -> _Stage:
        """The stage, so much of which is done."""
        known = self.get(stage)
        if known is None or done < known.latest or (done == 0 and stage != "train"):
            known = self[stage] = _Stage(done, now)
        known.latest = done
        return known

    def add_dev(self, done: int, score: float, now: float) -> None:
        """A dev score at so many steps of training: the first of a run comes before its first step, and stands beside that."""
        self.at("train", done, now).add_dev(score)


class _Lines:
    """Plain lines: `train 12/48, loss 3.214, 20,067 pairs/s, 9 s left`, and nothing of what is over in no time."""

    def __init__(self, out: IO[str], *, quiet: bool = False) -> None:
        self._out, self._quiet = out, quiet
        self._stages = _Stages()
        self._said = perf_counter()

    def __call__(self, stage: str, done: int, total: int, **facts: float | str) -> None:
        now = perf_counter()
        if "note" in facts:
            print(f"{stage}: {facts['note']}", file=self._out, flush=True)
            return
        if stage == "dev":
            # no line of its own: the score stands beside the training it belongs to
            self._stages.add_dev(done, float(facts.get("score", 0.0)), now)
            return
        known = self._stages.at(stage, done, now)
        words = known.words(facts)
        took = now - known.began
        over = done >= total and took >= 1
        if self._quiet or done == 0 or not (over or now - self._said >= LINE_SECONDS):
            return
        self._said = now
        print(", ".join([f"{stage} {done:,}/{total:,}", *words, *known.time(done, total, now)]), file=self._out, flush=True)


def duration(seconds: float) -> str:
    """A time as a person says it: `9 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


@contextmanager
def _bars(out: IO[str]) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[time]}"),
        TextColumn("{task.fields[facts]}", markup=False),
    )
    with Bars(*columns, console=Console(file=out), transient=False) as bars:
        tasks: dict[str, TaskID] = {}
        stages = _Stages()

        def show(stage: str, done: int, total: int, **facts: float | str) -> None:
            now = perf_counter()
            if "note" in facts:
                bars.console.print(f"{stage}: {facts['note']}", markup=False, highlight=False)
                return
            if stage == "dev":
                # no bar of its own: the score stands beside the training it belongs to
                stages.add_dev(done, float(facts.get("score", 0.0)), now)
                return
            if stage not in tasks or (done < total and bars.tasks[tasks[stage]].finished):
                tasks[stage] = bars.add_task(stage, total=total, facts="", time="")
            known = stages.at(stage, done, now)
            words, time = ", ".join(known.words(facts)), "".join(known.time(done, total, now))
            bars.update(tasks[stage], completed=done, total=total, facts=words, time=time)

        yield show

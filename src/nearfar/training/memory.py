"""How much memory there is and how much of it is free, as this process may have it: a container's limit counts beside the machine's.

The files of Linux's control groups (cgroup v2: memory.max, memory.current; v1: memory.limit_in_bytes, memory.usage_in_bytes).

Decisions. A step frees all that it took, and glibc gives that back to the system, page by page, for the next step to ask for again: a tenth of a step
(`DESIGN.md`). While steps run it stays with the process (`holding`), and counts as free for the next (`held`).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
GUESS = 8 << 30
"""Bytes taken to be free where no system says how many are."""

_TRIM, _MMAP = -1, -3
"""Of mallopt: the bytes free at the top of the heap from which they are given back, and those of a block from which it has pages of its own (malloc.h)."""
_TOLD = ("trim_threshold", "mmap_threshold", "mmap_max", "top_pad")
"""Of these the environment may say something (mallopt(3)): then nothing is changed."""
_HELD, _AS_EVER = {_MMAP: 1 << 30, _TRIM: (1 << 31) - 1}, {_MMAP: 32 << 20, _TRIM: 64 << 20}
"""While steps run, and after: where glibc's own adjustment ends that a process of large blocks has come to (mallopt(3))."""


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


@contextmanager
def holding() -> Iterator[None]:
    """Inside, memory that is freed stays with the process, 2 GiB at most at the heap's top, for who asks next; afterwards it is given back as ever.

    With glibc alone, and not where a variable of the environment tells its malloc when to give back. Of several at once the last one ends it.
    """
    libc = _malloc()
    if libc is None:
        yield
        return
    with _count_lock:
        _holders.append(None)
        _set(libc, _HELD)
    try:
        yield
    finally:
        with _count_lock:
            _holders.pop()
            if not _holders:
                _set(libc, _AS_EVER)


def held() -> int:
    """Bytes that were freed and stay with the process inside `holding`; 0 outside."""
    libc = _malloc()
    return libc.mallinfo2().fordblks if libc is not None and _holders else 0


class _Malloc(ctypes.Structure):
    """What mallinfo2 returns (malloc.h): `fordblks` are the free bytes of the heap."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    ]


_holders: list[None] = []
_count_lock = threading.Lock()


@cache
def _malloc() -> ctypes.CDLL | None:
    """The C library where its malloc can be told, and says what it holds: glibc from 2.33 on."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}=" in tunables for name in _TOLD):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Malloc
        return libc if callable(libc.mallopt) else None
    except (OSError, AttributeError, TypeError):  # pragma: no cover - another system, another C library
        return None


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for name, value in values.items():
        libc.mallopt(name, value)


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

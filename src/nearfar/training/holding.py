"""Memory that a step frees and the next one takes again: it stays with the process while steps run.

Decisions. A step frees all that it took, and glibc gives that back to the system, page by page, for the next step to ask for again: a tenth of a step
(`DESIGN.md`). What is held counts as free for the next step (`held`).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_TRIM, _MMAP = -1, -3
"""Of mallopt: the bytes free at the top of the heap from which they are given back, and those of a block from which it has pages of its own (malloc.h)."""
_TOLD = ("trim_threshold", "mmap_threshold", "mmap_max", "top_pad")
"""Of these the environment may say something (mallopt(3)): then nothing is changed."""
_HELD, _AS_EVER = {_MMAP: 1 << 30, _TRIM: (1 << 31) - 1}, {_MMAP: 32 << 20, _TRIM: 64 << 20}
"""While steps run, and after: where glibc's own adjustment ends that a process of large blocks has come to (mallopt(3))."""


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

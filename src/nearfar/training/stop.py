"""Stopping by a signal: the first one asks for the end of the step, the second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from nearfar.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests(heard: Callable[[signal.Signals], None] = lambda _: None) -> Iterator[list[signal.Signals]]:
    """Collect the first SIGINT or SIGTERM in the list instead of stopping in the middle; the second raises `Interrupted` at once.

    `heard` is called with the first, between two instructions of the main thread. A signal that is ignored, or handled outside of Python, is left
    alone; in a thread that is not the main one nothing is installed. Afterwards all handlers are as before.
    """
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    found: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls
        name = signal.Signals(number)
        if caught:
            put_back()
            raise Interrupted(f"stopped at once by {name.name}.", number)
        caught.append(name)
        heard(name)

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        put_back()

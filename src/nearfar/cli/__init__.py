"""The command line. This module stays light: what a command needs is imported when it runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nearfar ARGUMENTS` (default: of this process) and return the exit code.

    0 done; 1 found wanting (worse than the baseline, diverged); 2 wrong usage, bad input, or a disk that refuses; 130 and 143 interrupted
    (SIGINT, SIGTERM), what was finished kept.
    """
    import typer

    from nearfar.errors import Interrupted, NearfarError

    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # typer brings its own copy of click, or uses the installed one, by its version
    wrong_usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        with _terminable(is_own=arguments is None):
            return _run(given)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except wrong_usage as error:
        error.show()
        return 2
    except NearfarError as error:
        _say_error(given, type(error).__name__, str(error))
        return error.exit_code
    except Interrupted as stop:
        _say_error(given, "Interrupted", str(stop))
        _deafen(is_own=arguments is None)
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt, EOFError):
        on = " Go on with the same command and --resume." if given[:1] == ["train"] else ""
        _say_error(given, "Interrupted", f"interrupted; what was finished is kept.{on}")
        _deafen(is_own=arguments is None)
        return 130
    except BrokenPipeError:
        # whoever read has had enough (`nearfar search ... | head`); python would complain once more while closing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _say_error(given, "OSError", f"{error.filename or ''}: {error.strerror}. Check the path, its permissions and the disk.")
        return 2


def _run(given: Sequence[str]) -> int:
    """Parse and call. Not by click's own `main`: that turns every interrupt into a bare code, and with it goes what was kept."""
    import typer

    from nearfar.cli.app import app

    command = typer.main.get_command(app)
    with command.make_context("nearfar", list(given)) as context:
        found = command.invoke(context)
    return int(found) if isinstance(found, int) else 0


@contextmanager
def _terminable(*, is_own: bool) -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, with a sentence and a code, also where no step is being taken.

    Where the process is the command's own, a second Ctrl-C ends it at once: a traceback out of whatever was being put in order helps nobody.
    """
    from nearfar.errors import Interrupted

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal calls
        raise Interrupted("stopped by SIGTERM; what was finished is kept.", number)

    def at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        os.write(2, b"nearfar: interrupted once more; stopped at once.\n")
        os._exit(128 + number)

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGINT, at_once)
        raise KeyboardInterrupt

    if is_own and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _deafen(*, is_own: bool) -> None:
    """Nothing is left that an interrupt could stop but the interpreter's own end, which would show a traceback."""
    if is_own and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _say_error(given: Sequence[str], kind: str, message: str) -> None:
    if "--json" in given:
        import json

        print(json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False))
    print(f"nearfar: {message}", file=sys.stderr)

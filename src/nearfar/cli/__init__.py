"""The command line. This module stays light: what a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nearfar ARGUMENTS` (default: of this process) and return the exit code.

    0 done; 1 found wanting (worse than the baseline, diverged); 2 wrong usage or bad input; 130 interrupted, work kept.
    """
    import typer

    from nearfar.cli.app import app
    from nearfar.errors import NearfarError

    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # typer brings its own copy of click, or uses the installed one, by its version
    wrong_usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        found = app(given, standalone_mode=False, prog_name="nearfar")
    except typer.Abort:
        return _interrupted(given)
    except wrong_usage as error:
        error.show()
        return 2
    except NearfarError as error:
        _say_error(given, type(error).__name__, str(error))
        return error.exit_code
    except (KeyboardInterrupt, EOFError):
        return _interrupted(given)
    except BrokenPipeError:
        # whoever read has had enough (`nearfar search ... | head`); python would complain once more while closing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _say_error(given, "OSError", f"{error.filename or ''}: {error.strerror}. Check the path, its permissions and the disk.")
        return 2
    # typer turns an interrupt into this code
    return _interrupted(given) if found == 130 else int(found) if isinstance(found, int) else 0


def _interrupted(given: Sequence[str]) -> int:
    on = " Go on with the same command and --resume." if given[:1] == ["train"] else ""
    print(f"\nnearfar: interrupted; what was finished is kept.{on}", file=sys.stderr)
    return 130


def _say_error(given: Sequence[str], kind: str, message: str) -> None:
    if "--json" in given:
        import json

        print(json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False))
    print(f"nearfar: {message}", file=sys.stderr)

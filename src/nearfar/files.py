"""How nearfar writes and reads files: every write whole or not at all, every input known by the hash of its content."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nearfar.errors import BadInput, Damaged

_SWAPS = 100
"""Times a folder is tried to be put in place while readers settle the old one."""


def sync_folder(path: Path) -> None:
    """Make a rename inside `path` durable (fsync of the directory; a no-op where directories cannot be opened)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # pragma: no cover - Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path`; on success fsync and rename it over `path`, on any error leave `path` as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success its files are synced and it takes the place of `path`.

    An existing folder is moved to `.NAME.old`, then replaced, then removed: a process killed between the two renames
    leaves the old folder whole under that name, and `settle_folder` (called by whoever opens one) puts it back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    settle_folder(path)
    _clear_dead(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for place in sorted(temporary.rglob("*")):
            if place.is_dir():
                sync_folder(place)
            else:
                with open(place, "rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        _swap(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        settle_folder(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(_old(path), ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`. A reader that comes between the two renames puts the old folder back: then once more."""
    for attempt in range(_SWAPS):
        try:
            if path.exists():
                shutil.rmtree(_old(path), ignore_errors=True)
                os.replace(path, _old(path))
            os.replace(new, path)
            return
        except OSError:
            if attempt == _SWAPS - 1 or not new.exists():
                raise


def _clear_dead(path: Path) -> None:
    """Remove the temporary folders of processes that were killed while they wrote `path`."""
    if os.name != "posix":  # pragma: no cover - elsewhere signal 0 is no question
        return
    for place in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = place.name.removeprefix(f".{path.name}.").removesuffix(".tmp")
        if number.isdigit() and place.is_dir() and not _is_running(int(number)):
            shutil.rmtree(place, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def settle_folder(path: Path | str) -> None:
    """Put back the old folder where a killed `atomic_folder(path)` left none at `path`. Only writers remove anything."""
    path = Path(path)
    if not path.exists():
        # not there: nothing to settle; in the way: the writer, alive, was faster
        with suppress(OSError):
            os.replace(_old(path), path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def write_atomic(path: Path | str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary path beside `path` (for libraries that want a name, not a handle), then sync and rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    with atomic_file(path, "w") as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises `BadInput` where it is absent and `Damaged` where it does not parse, naming the line."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BadInput(f"{path}: no such file. Check the path, or the command that should have written it.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise Damaged(f"{where}: this is not valid JSON ({error}). Restore the file or write it anew.") from error


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def hash_folder(path: Path | str) -> str:
    """SHA-256 over the names and contents of all files below `path`, in name order, as `sha256:<hex>`."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\0".encode())
    return f"sha256:{digest.hexdigest()}"

"""How nearfar writes and reads files: every write whole or not at all, every input known by the hash of its content."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nearfar.errors import BadInput, CannotWrite, Damaged

SEAL = "SHA256SUMS"
"""The file that seals a folder; `sha256sum -c SHA256SUMS` inside the folder checks it too."""

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
def refusals(path: Path | str) -> Iterator[None]:
    """Turn a refusal to write at `path` (disk full, quota, no permission, read-only, failing device) into `CannotWrite`."""
    path = Path(path)
    try:
        yield
    except Exception as error:
        number = _refusal(error, path)
        if number is None:
            raise
        raise CannotWrite(f"{path}: cannot be written: {_why(number, path)}", number) from error


_REFUSALS = {
    errno.ENOSPC: "the disk is full ({free} free of {size}). Make room there, or write to another disk.",
    errno.EDQUOT: "your quota of disk space is used up. Make room there, or write to another disk.",
    errno.EFBIG: "the file would be larger than this process or file system allows. Look at `ulimit -f`.",
    errno.EROFS: "the file system is read-only ({free} free). Write to another folder, or mount it writable.",
    errno.EACCES: "no permission ({free} free). Change who may write to {parent}, or write to another folder.",
    errno.EPERM: "not permitted ({free} free). Change who may write to {parent}, or write to another folder.",
    errno.EIO: "the device failed (input/output error). Check the disk before anything is trusted to it.",
}


def _refusal(error: Exception, path: Path) -> int | None:
    """The errno where `error` says that `path` (or a temporary file for it) cannot be written, else None."""
    if isinstance(error, CannotWrite):
        return error.number
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "safetensors"):
        # written by a library in another language, which tells the number in words only
        told = re.search(r"(?:os error|code:|errno) (\d+)", str(error))
        number = int(told[1]) if told else None
    named = getattr(error, "filename", None)
    elsewhere = (
        isinstance(named, str) and path.name not in named and not str(path.absolute()).startswith(os.path.abspath(named))
    )
    return number if number in _REFUSALS and not elsewhere else None


def _why(number: int, path: Path) -> str:
    parent = next((place for place in path.absolute().parents if os.path.isdir(place)), Path("/"))
    try:
        space = shutil.disk_usage(parent)
        free, size = _bytes(space.free), _bytes(space.total)
    except OSError:
        free = size = "unknown"
    return _REFUSALS[number].format(free=free, size=size, parent=parent)


def _bytes(count: float) -> str:
    """A count of bytes as a person reads it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path`; on success rename it over `path`, on any error remove it and leave `path` as it was."""
    temporary = _temporary(path)
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


@contextmanager
def atomic_file(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path`; on success fsync and rename it over `path`, on any error leave `path` as it was.

    Raises `CannotWrite` where the disk is full or the place refuses to be written.
    """
    is_text = "b" not in mode
    with (
        _replacing(Path(path)) as temporary,
        open(temporary, mode, encoding="utf-8" if is_text else None, newline="" if is_text else None) as handle,
    ):
        yield handle
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success its files are synced and it takes the place of `path`.

    An existing folder is moved to `.NAME.old`, then replaced, then removed: a process killed between the two renames
    leaves the old folder whole under that name, and `settle_folder` (called by whoever opens one) puts it back.
    Raises `CannotWrite` where the disk is full or the place refuses to be written.
    """
    path = Path(path)
    temporary = _temporary(path)
    with refusals(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        settle_folder(path)
        _clear_dead(path.parent, path.name)
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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


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


def clear_dead(folder: Path | str) -> None:
    """Remove what processes that were killed while they wrote into `folder` left there, whatever they wrote."""
    _clear_dead(Path(folder), None)


def _clear_dead(folder: Path, name: str | None) -> None:
    """Remove the temporary files and folders of the dead (for `name` alone where it is given)."""
    if os.name != "posix":  # pragma: no cover - elsewhere signal 0 is no question
        return
    for place in folder.glob(f".{glob.escape(name) if name else '*'}.*.tmp"):
        number = place.name.removesuffix(".tmp").rpartition(".")[2]
        if not number.isdigit() or _is_running(int(number)):
            continue
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


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
    with _replacing(Path(path)) as temporary:
        write(temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())


@contextmanager
def sole_writer(folder: Path | str) -> Iterator[None]:
    """Hold `folder` against a second process that would write there too; the system lets go of it when this process ends, however.

    Raises `BadInput` (naming the process) where another holds it. Where the system has no such locks nothing is held.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        yield
        return
    path = Path(folder) / ".writer"
    with refusals(path):
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below; closing lets go
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise BadInput(
                f"{folder}: process {handle.read().strip() or '(unknown)'} is writing here now. Wait for it, or stop it first."
            ) from error
        except OSError:  # a network file system without locks
            yield
            return
        with refusals(path):
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
        yield


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


def cache_folder() -> Path:
    """Where is kept what can be made again (tables from transformers, decoded pictures): $NEARFAR_CACHE, else `nearfar` in the user's cache folder."""
    if own := os.environ.get("NEARFAR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearfar"


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


def seal_folder(folder: Path | str) -> None:
    """Write `SHA256SUMS` over all files below `folder`, as sha256sum writes it. Seal last: whatever changes later breaks it."""
    (Path(folder) / SEAL).write_bytes(_sums(Path(folder)))


def check_seal(folder: Path | str) -> None:
    """Raise `Damaged`, naming the files, where any byte below `folder` is not as it was sealed, or a file is missing or added."""
    folder = Path(folder)
    try:
        told, found = (folder / SEAL).read_bytes(), _sums(folder)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise Damaged(f"{folder}: {f'it has no {SEAL}' if missing else error.strerror}, so it is not whole.") from error
    if told == found:
        return
    before, now = ({line[66:]: line[:64] for line in text.decode(errors="replace").splitlines()} for text in (told, found))
    wrong = [f"{name} is missing" for name in before if name not in now]
    wrong += [
        f"{name} was not there" if name not in before else f"{name} is not what was written"
        for name in now
        if before.get(name) != now[name]
    ]
    raise Damaged(f"{folder}: {', '.join(wrong) or f'{SEAL} was altered'}.")


def _sums(folder: Path) -> bytes:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / SEAL)
    lines = [f"{hash_file(file).removeprefix('sha256:')}  {file.relative_to(folder).as_posix()}\n" for file in files]
    return "".join(lines).encode()

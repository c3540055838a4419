"""Decoded pictures kept: one growing file of uint8 pixels a size, mapped into memory, and an index of which content lies where.

Decisions. Pixels are known by the hash of the encoded bytes, so a moved or copied file is decoded once, and a changed one again. The file only grows: rows are written and synced
before the index names them, so a process killed at any moment leaves at most rows that nobody names, and what another process has mapped never moves. Each index
entry carries a hash of its row, which is checked when the row is first used: what is damaged is named and decoded anew. Delete the folder to free the room.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nearfar.data.pictures import decode_bytes, read_bytes
from nearfar.errors import BadInput, CannotWrite, Missing
from nearfar.files import cache_folder, refusals
from nearfar.types import Picture, Progress, silent

FORMAT = 1
"""Raised when pictures are decoded differently: what was kept before is then not taken up."""
AT_ONCE, MOST = 64 << 20, 256
"""Bytes of pixels in memory before they are written, and pictures."""
IN_MEMORY = 1 << 30
"""Bytes of pixels that are held in memory where nothing can be kept."""
_ENTRY = np.dtype([("key", "V16"), ("row", "<i8"), ("seal", "V8")])


class Unreadable(NamedTuple):
    """A picture that could not be decoded: its place among those given, and why."""

    number: int
    why: str


class Decoded(NamedTuple):
    """Picture i is `values[rows[i]]`, -1 where it could not be decoded. `values` [m, 3, s, s] uint8 is mapped from the disk, read-only."""

    values: np.ndarray
    rows: np.ndarray
    unreadable: tuple[Unreadable, ...]


def decode_all(
    pictures: Sequence[Picture],
    size: int,
    *,
    cache: Path | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Decoded:
    """The pixels of pictures, [size, size] each as `decode` makes them: from `cache` (default `cache_folder()`) or decoded, in parallel, and kept there.

    Pictures of one content share a row. Memory: 64 MB of pixels, and in each thread the picture at work there. What cannot be decoded is listed, not raised. Where the
    default cache cannot be written and the pixels are few (`IN_MEMORY`), they are decoded into memory, which is said. Raises `BadInput` for a size below 1, `Missing` without
    pillow, `CannotWrite` where the cache cannot be written.
    """
    if size < 1:
        raise BadInput(f"size {size}: a picture has at least 1 pixel a side.")
    store = _Store(cache_folder() if cache is None else Path(cache), size)
    try:
        return _through(store, pictures, threads or _processors(), progress)
    except CannotWrite as error:
        if cache is not None or len(pictures) * store.row_bytes > IN_MEMORY:
            raise
        progress("decode pictures", 0, len(pictures), note=f"{error} They are decoded into memory, and by the next run again.")
        return _into_memory(store, pictures, threads or _processors())


def _into_memory(store: _Store, pictures: Sequence[Picture], threads: int) -> Decoded:
    rows = np.full(len(pictures), -1, np.int64)
    values = np.empty((len(pictures), *store.shape), np.uint8)
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(threads) as pool:
        for number, one in enumerate(pool.map(lambda picture: store.take(picture, anew=True), pictures)):
            if one.pixels is None:
                unreadable.append(Unreadable(number, str(one.why)))
            else:
                rows[number], values[number] = number, one.pixels
    return Decoded(values, rows, tuple(unreadable))


def _through(store: _Store, pictures: Sequence[Picture], threads: int, progress: Progress) -> Decoded:
    """Look all pictures up, decode those that are not kept, and keep them."""
    rows = np.full(len(pictures), -1, np.int64)
    unreadable: list[Unreadable] = []
    distinct: dict[str, list[int]] = {}
    for number, picture in enumerate(pictures):
        distinct.setdefault(str(picture), []).append(number)
    work = list(distinct.values())
    step = max(1, min(MOST, AT_ONCE // store.row_bytes))
    damaged = 0
    progress("decode pictures", 0, len(work))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(work), step):
            part = work[start : start + step]
            done = list(pool.map(lambda numbers: store.take(pictures[numbers[0]]), part))
            fresh = {one.key: one.pixels for one in done if one.pixels is not None}
            if fresh:
                store.append(fresh)
            for numbers, one in zip(part, done, strict=True):
                damaged += one.was_damaged
                if one.why is None:
                    rows[numbers] = store.row_of[one.key]
                else:
                    unreadable += [Unreadable(number, one.why) for number in numbers]
            told = {"unreadable": len(unreadable)} if unreadable else {}
            progress("decode pictures", min(start + step, len(work)), len(work), **told)
    if damaged:
        progress(
            "decode pictures",
            len(work),
            len(work),
            note=f"{store.pixels_path}: {damaged:,} pictures were damaged there. They are decoded anew.",
        )
    return Decoded(store.values(), rows, tuple(sorted(unreadable)))


class _Taken(NamedTuple):
    """One picture looked up: its key; its pixels where they were not kept; why it could not be decoded."""

    key: bytes
    pixels: np.ndarray | None = None
    why: str | None = None
    was_damaged: bool = False


class _Store:
    """The kept pixels of one size."""

    def __init__(self, folder: Path, size: int) -> None:
        try:
            from PIL import __version__
        except ModuleNotFoundError:
            raise Missing("pictures need pillow. Install it: pip install 'nearfar[vision]'.") from None
        self.folder = folder / "pictures" / f"{FORMAT}-pillow{__version__}-{size}"
        self.pixels_path, self.index_path = self.folder / "pixels.u8", self.folder / "index"
        self.shape = (3, size, size)
        self.row_bytes = 3 * size * size
        self.row_of: dict[bytes, int] = {}
        self._seal_of: dict[bytes, bytes] = {}
        self._read_bytes = 0
        self._refresh()

    def _refresh(self) -> None:
        """Take up what stands in the index since it was last read; of two entries of one key the later counts."""
        try:
            with self.index_path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except FileNotFoundError:
            return
        whole = len(data) // _ENTRY.itemsize * _ENTRY.itemsize
        rows = self._rows()
        for key, row, seal in np.frombuffer(data[:whole], _ENTRY).tolist():
            if 0 <= row < rows:
                self.row_of[key], self._seal_of[key] = row, seal
        self._read_bytes += whole

    def _rows(self) -> int:
        try:
            return self.pixels_path.stat().st_size // self.row_bytes
        except FileNotFoundError:
            return 0

    def values(self) -> np.ndarray:
        """All rows, mapped: the same array again while the file has not grown (`_MAPPED`)."""
        try:
            facts = self.pixels_path.stat()
        except FileNotFoundError:
            return np.zeros((0, *self.shape), np.uint8)
        known = _MAPPED.get(self.pixels_path)
        count = facts.st_size // self.row_bytes
        if known is None or known.file != (facts.st_dev, facts.st_ino) or len(known.values) < count:
            values = np.asarray(np.memmap(self.pixels_path, np.uint8, "r", shape=(count, *self.shape)))
            checked = known.checked if known is not None and known.file == (facts.st_dev, facts.st_ino) else set()
            known = _MAPPED[self.pixels_path] = _Mapped((facts.st_dev, facts.st_ino), values, checked)
        return known.values

    def take(self, picture: Picture, *, anew: bool = False) -> _Taken:
        """Look a picture up by its content (unless `anew`), or decode it. Runs in many threads."""
        try:
            data = read_bytes(picture)
        except BadInput as error:
            return _Taken(b"", why=str(error))
        key = hashlib.sha256(data).digest()[:16]
        kept = None if anew else self._is_whole(key)
        if kept:
            return _Taken(key)
        try:
            pixels = decode_bytes(str(picture), data, self.shape[1])
        except BadInput as error:
            return _Taken(key, why=str(error))
        return _Taken(key, np.ascontiguousarray(pixels.transpose(2, 0, 1)), was_damaged=kept is False)

    def _is_whole(self, key: bytes) -> bool | None:
        """Whether the row of this key is what was written; None where there is none."""
        row = self.row_of.get(key)
        if row is None:
            return None
        values = self.values()
        known = _MAPPED.get(self.pixels_path)
        checked = known.checked if known is not None else set()
        if row not in checked and row < len(values) and self._seal(key, values[row]) == self._seal_of[key]:
            checked.add(row)
        return row in checked

    @staticmethod
    def _seal(key: bytes, pixels: np.ndarray) -> bytes:
        return hashlib.sha256(key + pixels.tobytes()).digest()[:8]

    def append(self, fresh: dict[bytes, np.ndarray]) -> None:
        """Write rows, sync them, and only then name them in the index."""
        with refusals(self.pixels_path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _turn(self.folder / ".writer"):
                known = {key: self.row_of.get(key) for key in fresh}
                self._refresh()
                new = [key for key in fresh if self.row_of.get(key) == known[key]]  # another process was not faster
                entries = np.zeros(len(new), _ENTRY)
                with self.pixels_path.open("ab") as file:
                    end = file.seek(0, os.SEEK_END)
                    first = -(-end // self.row_bytes)
                    file.write(b"\0" * (first * self.row_bytes - end))  # what a killed writer left unfinished
                    for place, key in enumerate(new):
                        file.write(fresh[key].tobytes())
                        entries[place] = (key, first + place, self._seal(key, fresh[key]))
                    file.flush()
                    os.fsync(file.fileno())
                with self.index_path.open("ab") as file:
                    file.truncate(self._read_bytes)
                    file.write(entries.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                self._refresh()


class _Mapped(NamedTuple):
    """A mapped file: which it is (device, inode), its rows, and those that were compared with their seal."""

    file: tuple[int, int]
    values: np.ndarray
    checked: set[int]


_MAPPED: dict[Path, _Mapped] = {}


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait until no other process writes; the system lets go of the lock when a process ends, however. Nothing is held where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows
        yield
        return
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            yield
            return
        yield

"""Webdataset shards: tar files read by offset, never unpacked. Members of one name up to its first dot are one sample.

https://github.com/webdataset/webdataset: `0001.jpg` beside `0001.txt`, `0001.json` or `0001.cls`.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nearfar.data.formats import Row, Table
from nearfar.data.pictures import is_picture_name
from nearfar.data.text import agree, counted
from nearfar.errors import BadInput
from nearfar.types import Picture

BETWEEN = "::"
"""Stands between a tar file and the member of it: `shard.tar::0001.jpg`."""
_BRACES = re.compile(r"^(.*)\{(\d+)\.\.(\d+)\}(.*)$")
_TEXT = 1 << 24
"""A member of text larger than this is none."""


class Member(NamedTuple):
    """A file within a tar: its name, where its bytes begin, and how many they are."""

    name: str
    offset: int
    size: int


def shard_paths(path: Path) -> list[Path]:
    """The tar files that a path means: a file, those of a folder in order of their names, or `shard-{000..012}.tar`. Raises `BadInput` for a missing one."""
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    braces = None if path.exists() else _BRACES.match(str(path))
    if braces is None:
        return [path]
    before, first, last, after = braces.groups()
    found = [Path(f"{before}{number:0{len(first)}d}{after}") for number in range(int(first), int(last) + 1)]
    missing = [str(one) for one in found if not one.exists()]
    if missing or not found:
        raise BadInput(
            f"{path}: {len(missing)} of {counted(len(found), 'shard')} {agree(len(missing), 'are')} not there ({', '.join(missing[:3])}). Check the numbers."
        )
    return found


@lru_cache(maxsize=64)
def _members(path: Path, _changed: int) -> tuple[Member, ...]:
    found: list[Member] = []
    end = 0
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                end = info.offset_data
                if not info.isfile():
                    continue
                if info.offset_data + info.size > size:
                    raise BadInput(f"{path}: torn within its member {info.name!r}. Copy the shard again.")
                end += -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                found.append(Member(info.name, info.offset_data, info.size))
        # tarfile takes a cut between two members for the end: the samples behind it would be missing unsaid
        with path.open("rb") as file:
            file.seek(end)
            block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
            last = f" after its member {found[-1].name!r}" if found else ""
            raise BadInput(f"{path}: torn{last}: the blocks of zeros that end a tar are not there. Copy the shard again.")
    except tarfile.TarError as error:
        packed = path.open("rb").read(2) == b"\x1f\x8b"
        mend = "It is compressed, and shards are read by offset: gunzip it first." if packed else "Copy the shard again."
        raise BadInput(f"{path}: not a readable tar file ({error}). {mend}") from None
    return tuple(found)


def members(path: Path) -> tuple[Member, ...]:
    """The files within a tar, in order. Raises `BadInput` for one that is torn, compressed, or none."""
    try:
        return _members(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise BadInput(f"{path}: this shard cannot be read ({error.strerror or error}).") from None


def member_picture(path: Path, name: str) -> Picture | None:
    """The picture of this name within a tar, None where there is none."""
    known = _by_name(path, path.stat().st_mtime_ns)
    found = known.get(name)
    return None if found is None else _picture(path, found)


@lru_cache(maxsize=64)
def _by_name(path: Path, changed: int) -> dict[str, Member]:
    return {member.name: member for member in _members(path, changed)}


def _picture(path: Path, member: Member) -> Picture:
    return Picture(f"{path}{BETWEEN}{member.name}", file=path, offset=member.offset, size=member.size)


def read_shards(paths: Sequence[Path], refused: list[BadInput] | None = None) -> Table:
    """A row a sample: its pictures under `image` (`image.left` for `0001.left.jpg`), its `.txt` under `caption`, its `.cls` under `label`, and what its
    `.json` holds. Pictures are not read. Raises `BadInput` as `members`, and for a sample whose text is none, or of which two members have one name;
    where `refused` is given such samples go there.
    """
    names: dict[str, None] = {}
    samples: list[tuple[str, Path, dict[str, Member]]] = []
    for path in paths:
        here: dict[str, dict[str, Member]] = {}
        twice: dict[str, str] = {}
        for member in members(path):
            folder, _, base = member.name.rpartition("/")
            if base.startswith("."):
                continue
            stem, _, ending = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            parts = here.setdefault(key, {})
            if ending.lower() in parts:
                twice.setdefault(key, member.name)
            parts[ending.lower()] = member
        for key, name in twice.items():
            error = BadInput(
                f"{path}{BETWEEN}{key}: its member {name} is there twice, so what belongs together cannot be told. Write the shard again, each sample under a name of its own."
            )
            if refused is None:
                raise error
            refused.append(error)
        samples += [(key, path, parts) for key, parts in here.items() if key not in twice]
    rows: list[Row] = []
    for key, path, parts in samples:
        where = f"{path}{BETWEEN}{key}"
        values: dict[str, Any] = {}
        try:
            for ending, member in parts.items():
                values.update(_values(where, path, ending, member))
        except BadInput as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        names.update(dict.fromkeys(values))
        rows.append(Row(where, values))
    if not rows and not refused:
        raise BadInput(
            f"{paths[0] if paths else 'shards'}: no samples in {counted(len(paths), 'shard')}. Expected pictures beside .txt, .json or .cls."
        )
    return Table(list(names), iter(rows))


def _values(where: str, path: Path, ending: str, member: Member) -> Iterator[tuple[str, Any]]:
    """What one member says of its sample."""
    if is_picture_name(f".{ending}"):
        side = ending.rpartition(".")[0]
        yield f"image.{side}" if side else "image", _picture(path, member)
    elif ending in ("txt", "cls", "json", "caption", "text") and member.size <= _TEXT:
        with path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        try:
            text = data.decode()
            told = json.loads(text) if ending == "json" else text.strip()
        except UnicodeDecodeError as error:
            raise BadInput(f"{where}: its .{ending} cannot be read ({error}). Write it again as UTF-8.") from None
        except ValueError as error:
            raise BadInput(
                f"{where}: its .{ending} is no JSON ({error}). Mend that member and write the shard again."
            ) from None
        if isinstance(told, dict):
            yield from told.items()
        else:
            yield {"cls": "label", "json": "caption"}.get(ending, "caption"), told

"""Which columns of a table hold pictures, what a cell of one means, and how a picture is written into a cell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nearfar.data.broken import NoPicture
from nearfar.data.formats import Row
from nearfar.data.pictures import is_picture_name
from nearfar.data.shards import BETWEEN, member_picture
from nearfar.errors import BadInput
from nearfar.types import Picture

SURE = ("image", "images", "image_path", "image_file", "img", "picture", "photo")
"""Columns of these names hold pictures."""
LIKELY = ("file_name", "filename", "filepath", "file_path", "path", "file")
"""Columns of these names do where their cells look like pictures."""
CAPTIONS = ("caption", "captions", "text", "texts", "sentence", "sentences", "description", "title", "alt_text", "alt")
LABELS = ("label", "class", "class_name", "category")
BESIDE = {"query": "query_image", "positive": "positive_image", "negatives": "negative_images"}
"""What `write_pairs` calls the columns of pictures, beside those of texts."""


class Plan(NamedTuple):
    """Our names -> the file's columns (as a mapping of `read_pairs`), the columns of pictures, and by role the column that holds pictures beside texts."""

    mapping: dict[str, str]
    pictures: frozenset[str]
    beside: dict[str, str]


def plan(
    found: Sequence[str],
    mapping: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    base: Path,
    texts: Mapping[str, Sequence[str]],
) -> Plan:
    """What of a table is pictures. `texts` are the usual names of `query` and `positive`; `samples` its first rows.

    A table that has both as texts is one of texts, whatever else is in it. Otherwise: the caption is the query and its picture the positive; without captions a label in words
    is the query; without words each picture is paired with itself (two views of it). A label is the group.
    """
    lower = {name.strip().lower(): name for name in reversed(found)}
    beside = {role: lower[name] for role, name in BESIDE.items() if name in lower}
    pictures = set(beside.values())
    chosen = dict(mapping)
    for role in ("query", "positive"):
        named = mapping.get(role) or next((lower[name] for name in texts[role] if name in lower), None)
        if named is not None and (_looks_so(named, samples) and (role in mapping or _is_there(named, samples, base))):
            pictures.add(named)
    column = next((lower[name] for name in SURE if name in lower), None) or next(
        (lower[name] for name in LIKELY if name in lower and _looks_so(lower[name], samples)), None
    )
    label = next((lower[name] for name in LABELS if name in lower), None)
    has = {
        role: role in mapping or role in beside or any(name in lower for name in texts[role]) for role in ("query", "positive")
    }
    if column is not None and not (has["query"] and has["positive"]):
        pictures.add(column)
        words = next((lower[name] for name in CAPTIONS if name in lower and lower[name] != column), None)
        if not has["positive"]:
            chosen["positive"] = column
            if not has["query"]:
                chosen["query"] = words or (label if label is not None and _is_in_words(label, samples) else None) or column
        else:
            chosen["query"] = column
    both = {chosen.get("query"), chosen.get("positive")}
    pictures |= {column} & both if column is not None else set()
    # of two columns of pictures a label says how alike they are, of one what it shows
    if label is not None and len(pictures & both) == 1 and not {"group", "score"} & {*lower, *mapping}:
        chosen["group"] = label
    negatives = [name for name in found if name.strip().lower().startswith("negative") and name not in pictures]
    pictures |= {name for name in negatives if pictures and _looks_so(name, samples)}
    return Plan(chosen, frozenset(pictures), beside)


def _cells(column: str, samples: Sequence[Mapping[str, Any]]) -> list[Any]:
    cells = [row.get(column) for row in samples]
    return [one for cell in cells if cell not in (None, "", []) for one in (cell if isinstance(cell, list) else [cell])]


def _looks_so(column: str, samples: Sequence[Mapping[str, Any]]) -> bool:
    cells = _cells(column, samples)
    return bool(cells) and all(_is_reference(cell) for cell in cells)


def _is_reference(cell: Any) -> bool:
    if isinstance(cell, dict):
        return {"bytes", "path"} & set(cell) != set()
    return isinstance(cell, (bytes, Picture)) or (
        isinstance(cell, str) and len(cell) < 1024 and "\n" not in cell and is_picture_name(cell.strip())
    )


def _is_there(column: str, samples: Sequence[Mapping[str, Any]], base: Path) -> bool:
    """Whether one of the first cells is a picture that exists: then the column holds no names that are meant as text."""
    return any(
        not isinstance(cell, str) or isinstance(cell, Picture) or (base / cell.strip()).is_file()
        for cell in _cells(column, samples)[:8]
    )


def _is_in_words(column: str, samples: Sequence[Mapping[str, Any]]) -> bool:
    return any(isinstance(cell, str) and not cell.strip().lstrip("-").isdigit() for cell in _cells(column, samples))


def picture_of(where: str, column: str, cell: Any, base: Path) -> Picture:
    """The picture of a cell: a path (from `base`, absolute, or `SHARD.tar::MEMBER`), bytes, or `{bytes, path}` as `datasets` writes it.

    A picture of bytes is called by its path or its column and a hash of its content, so the same bytes are one item. Raises `NoPicture` where it is
    not there or empty, `BadInput` for a cell that is none.
    """
    if isinstance(cell, dict) and {"bytes", "path"} & set(cell):
        if cell.get("bytes") is not None:
            return _of_bytes(where, cell.get("path") or column, cell["bytes"])
        cell = cell.get("path")
    if isinstance(cell, Picture):  # a member of a shard
        if not cell.size:
            raise NoPicture(f"{where}: {str(cell).rpartition(BETWEEN)[2]}: the picture is empty.")
        return cell
    if isinstance(cell, bytes):
        return _of_bytes(where, column, cell)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise NoPicture(f"{where}: '{column}' names no picture.")
    if not isinstance(cell, str):
        raise BadInput(
            f"{where}: '{column}' is {type(cell).__name__} ({str(cell)[:40]!r}), expected the path of a picture, or its bytes."
        )
    return _of_path(where, column, cell.strip(), base)


def _of_bytes(where: str, name: str, data: bytes) -> Picture:
    if not data:
        raise NoPicture(f"{where}: {name}: the picture is empty.")
    seal = f"#{hashlib.sha256(data).hexdigest()[:16]}"
    return Picture(name if name.endswith(seal) else f"{name}{seal}", data=data)


def _of_path(where: str, column: str, text: str, base: Path) -> Picture:
    if text.partition("://")[0].lower() in ("http", "https", "s3", "gs"):
        raise BadInput(
            f"{where}: '{column}' is a web address ({text[:60]}). Nothing is fetched: download the pictures, and name their files."
        )
    shard, between, member = text.partition(BETWEEN)
    path = Path(os.path.normpath(base / (shard if between else text)))
    try:
        if between:
            found = member_picture(path, member) if path.is_file() else None
            if found is None or not found.size:
                raise NoPicture(
                    f"{where}: {text}: {'the picture is empty' if found else 'there is no such member of a shard'}."
                )
            return found
        size = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # no permission; a zero byte or too long for a name
        size = None
    if not size:
        raise NoPicture(
            f"{where}: {text}: {'the file is empty' if size == 0 else 'this is a folder' if path.is_dir() else f'no such file (looked in {base.absolute()})'}."
        )
    return Picture(path)


def several(row: Row, column: str, base: Path) -> list[Picture]:
    """The pictures of a cell: one, or a list of them."""
    cell = row.values.get(column)
    if isinstance(cell, list):
        return [picture_of(row.where, f"{column}[{place}]", one, base) for place, one in enumerate(cell)]
    return [picture_of(row.where, column, cell, base)]


def cell_of(picture: Picture, out: Path) -> Any:
    """How a picture is written into a cell of the table `out`: its path from there (`SHARD.tar::MEMBER` in a shard); in Parquet as `{bytes, path}`.

    Raises `BadInput` where the format holds no bytes.
    """
    is_parquet = out.name.lower().endswith(".parquet")
    if picture.data is not None:
        if not is_parquet:
            raise BadInput(
                f"{out}: {picture} is no file but bytes within a table, which this format cannot hold. Write Parquet: -o {out.name.partition('.')[0]}.parquet."
            )
        return {"bytes": picture.data, "path": str(picture)}
    place = Path(os.path.relpath(picture.file, out.parent)).as_posix()
    if picture.size is not None:
        file, between, member = str(picture).rpartition(BETWEEN)
        if not between or Path(file) != picture.file:
            raise BadInput(
                f"{out}: {picture} lies within {picture.file} and cannot be named from outside. Save it as a file of its own."
            )
        place += BETWEEN + member
    return {"bytes": None, "path": place} if is_parquet else place

"""Folders of pictures as tables: a list of captions, a folder a class, texts beside pictures, pictures alone, shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nearfar.data.formats import SUFFIXES, Row, Table, read_table
from nearfar.data.pictures import is_picture_name
from nearfar.data.shards import read_shards, shard_paths
from nearfar.data.text import counted
from nearfar.errors import BadInput

LISTS = ("metadata", "captions", "annotations", "pairs", "labels")
"""What the list of captions in a folder is called, where the folder holds several tables."""


class Opened(NamedTuple):
    """A table, the folder its paths start at, and what kind of folder it was, for the line that says what was understood."""

    table: Table
    base: Path
    kind: str = ""


def open_table(path: Path, refused: list[BadInput] | None = None) -> Opened:
    """Open a file of rows, shards, or a folder; `refused` as for `read_table`. Raises `BadInput` as `read_table`, and for a folder in which nothing is understood."""
    if not path.is_dir():
        if path.name.lower().endswith(".tar") and (path.exists() or "{" in path.name):
            paths = shard_paths(path)
            return Opened(read_shards(paths, refused), path.parent, f" ({counted(len(paths), 'shard')})")
        return Opened(read_table(path, refused), path.parent)
    if (path / "state.json").exists():
        return Opened(read_table(path, refused), path)
    shards = shard_paths(path)
    if shards:
        return Opened(read_shards(shards, refused), path, f" ({counted(len(shards), 'shard')})")
    listed = _list_of(path)
    if listed is not None:
        return Opened(read_table(listed, refused), path, f" ({listed.name})")
    # what a hidden file or folder holds (`.thumbnails`, `._photo.png` of an archive) is no picture of the set
    files = [
        file
        for file in sorted(path.rglob("*"))
        if is_picture_name(file.name)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        return Opened(read_table(path, refused), path)  # which says what folders are read
    flat = [file for file in files if file.parent == path]
    if flat and len(flat) < len(files):
        inside = next(file for file in files if file.parent != path)
        raise BadInput(
            f"{path}: pictures ({flat[0].name}) beside folders of pictures ({inside.relative_to(path).parts[0]}). Move them, or list all of them in a metadata.csv."
        )
    if flat:
        return _flat(path, flat)
    deep = [file for file in files if len(file.relative_to(path).parts) > 2]
    if len(deep) == len(files):
        splits = sorted({file.relative_to(path).parts[0] for file in files})
        raise BadInput(
            f"{path}: folders of folders of pictures ({', '.join(splits[:5])}). Name one of them: {path / splits[0]}."
        )
    rows = (
        Row(str(file), {"image": str(file.relative_to(path)), "caption": label.replace("_", " "), "label": label})
        for file in files
        for label in (file.relative_to(path).parts[0],)
    )
    count = len({file.relative_to(path).parts[0] for file in files})
    return Opened(Table(["image", "caption", "label"], rows), path, f" ({count:,} folders as classes)")


def _list_of(path: Path) -> Path | None:
    """The table in a folder that lists its pictures; None where there is no table."""
    tables = [file for file in sorted(path.iterdir()) if file.is_file() and file.name.lower().endswith(SUFFIXES)]
    if len(tables) <= 1:
        return tables[0] if tables else None
    known = [file for name in LISTS for file in tables if file.name.partition(".")[0].lower() == name]
    if len(known) != 1:
        raise BadInput(
            f"{path}: several lists ({', '.join(file.name for file in known or tables)}). Name one: {(known or tables)[0]}."
        )
    return known[0]


def _flat(path: Path, files: list[Path]) -> Opened:
    """Pictures in one folder: each with the text of the .txt beside it, where there is one of any."""
    has_texts = any(file.with_suffix(".txt").exists() for file in files)

    def rows() -> Iterator[Row]:
        for file in files:
            values: dict[str, object] = {"image": file.name}
            if has_texts:
                beside = file.with_suffix(".txt")
                try:
                    values["caption"] = beside.read_text(encoding="utf-8").strip() if beside.exists() else None
                except UnicodeDecodeError:
                    raise BadInput(f"{beside}: not UTF-8. Save the file as UTF-8.") from None
            yield Row(str(file), values)

    return Opened(
        Table(["image", "caption"] if has_texts else ["image"], rows()), path, " (texts beside pictures)" if has_texts else ""
    )

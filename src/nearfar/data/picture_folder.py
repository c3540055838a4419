"""A folder of pictures, searched through and through; what cannot be read is named with its reason and left out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from nearfar.data.pictures import decode
from nearfar.errors import BadInput
from nearfar.types import Picture, Progress, silent

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"))
"""Endings of files that are taken for pictures, in any case of letters."""
_LOOK = 8
"""Pixels of a side at which a picture is looked at to see whether it can be read."""


class Broken(NamedTuple):
    """A picture that cannot be read, and why."""

    picture: Picture
    why: str


class Readable(NamedTuple):
    """Pictures by key in the order given, and those that were left out."""

    pictures: dict[str, Picture]
    broken: list[Broken]


def list_pictures(folder: Path | str) -> dict[str, Picture]:
    """Every picture below a folder by its path from there, in order of that path. Hidden files and folders (`.thumbnails`) are passed over.

    The name of each is that path, so it says the same on every machine. Links to folders are not followed.
    Raises `BadInput` where there is no folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder. Give a folder of pictures.")
    found: list[str] = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(root)
        found += [
            (inside / name).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    if not found:
        raise BadInput(f"{root}: there is no picture in it (endings: {', '.join(sorted(SUFFIXES))}). Check the path.")
    return {name: Picture(name, file=root / name) for name in sorted(found)}


def look_at(pictures: dict[str, Picture], *, only: Iterable[str] | None = None, progress: Progress = silent) -> Readable:
    """The pictures that can be decoded, and the others with the reason. `only` are the keys to look at; others are taken to be whole.

    Decodes in threads, so it takes a fraction of the time of encoding; memory a few pictures. Raises `Missing` without pillow.
    """
    wanted = list(pictures if only is None else only)
    wrong: dict[str, Broken] = {}

    def why(key: str) -> str | None:
        try:
            decode(pictures[key], _LOOK)
        except BadInput as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        for done, (key, said) in enumerate(zip(wanted, pool.map(why, wanted), strict=True), 1):
            if said is not None:
                wrong[key] = Broken(pictures[key], said)
            if done % 100 == 0 or done == len(wanted):
                progress("look", done, len(wanted))
    return Readable({key: picture for key, picture in pictures.items() if key not in wrong}, list(wrong.values()))

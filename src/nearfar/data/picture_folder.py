"""A folder of pictures, searched through and through; what cannot be read is named with its reason and left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from nearfar.data.pictures import ENDINGS, is_picture_name
from nearfar.data.pixel_store import decode_all
from nearfar.errors import BadInput
from nearfar.types import Picture, Progress, silent


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

    The name of each is that path, so it says the same on every machine; bytes in it that are no UTF-8 are shown as \ufffd. Links to folders are not followed, and what is no file (a named pipe) is none.
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
            if not name.startswith(".") and is_picture_name(name) and not _is_special(Path(place, name))
        ]
    if not found:
        raise BadInput(f"{root}: there is no picture in it (endings: {', '.join(ENDINGS)}). Check the path.")
    return {_readable(name): Picture(_readable(name), file=root / name) for name in sorted(found)}


def _is_special(place: Path) -> bool:
    """Whether it is there and no file: to open a pipe waits for ever. A link to nothing is a picture that cannot be read, and is named so."""
    return place.exists() and not place.is_file()


def _readable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def look_at(
    pictures: Mapping[str, Picture], size: int, *, only: Iterable[str] | None = None, progress: Progress = silent
) -> Readable:
    """The pictures that can be decoded, and the others with the reason. `only` are the keys to look at; others are taken to be whole.

    `size` is that of the encoder which will see them: they are decoded as it needs them and kept (`nearfar.data.pixel_store`), so no picture is
    decoded twice. Raises as `decode_all`.
    """
    nameless = [
        Broken(picture, f"{key}: the file's name is not UTF-8. Give it another name.")
        for key, picture in pictures.items()
        if picture.file is not None and _readable(str(picture.file)) != str(picture.file)
    ]
    pictures = {key: picture for key, picture in pictures.items() if all(picture is not one.picture for one in nameless)}
    wanted = [key for key in (pictures if only is None else only) if key in pictures]
    found = decode_all([pictures[key] for key in wanted], size, progress=progress) if wanted else None
    wrong = {wanted[one.number]: Broken(pictures[wanted[one.number]], one.why) for one in found.unreadable} if found else {}
    whole = {key: picture for key, picture in pictures.items() if key not in wrong}
    return Readable(whole, [*nameless, *wrong.values()])

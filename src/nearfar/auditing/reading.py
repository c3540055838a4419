"""Pairs read leniently: rows that are no pairs are kept as findings, swapped columns are looked at, not refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nearfar.auditing.material import Material, Refused
from nearfar.data.broken import NoPicture
from nearfar.data.pairs import read_pairs
from nearfar.data.usable import picture_size, usable_pairs
from nearfar.errors import BadInput

SIDE = 32
"""Pixels of a side at which pictures are decoded to see whether they are sound, where no model says at what it reads them."""


def read_leniently(path: Path | str, *, columns: Mapping[str, str] | None = None) -> Material:
    """The pairs of a file, with the rows that are none. Raises `BadInput` as `read_pairs` for what cannot be read as rows at all."""
    errors: list[BadInput] = []
    file = read_pairs(path, columns=columns, allow_swapped=True, refused=errors)
    refused = []
    for error in errors:
        where, _, why = str(error).partition(": ")
        if why.startswith("row "):  # of a Parquet file: `file: row N: why`
            row, _, why = why.partition(": ")
            where = f"{where}: {row}"
        refused.append(Refused(where, why, isinstance(error, NoPicture)))
    refused.sort(key=_place)
    return Material(file.pairs, file.where, str(path), refused=refused, understood=file.understood)


def _place(one: Refused) -> tuple[str, int]:
    """By the number at the end of its place; a row of a folder of pictures or a shard has none, and goes by its name."""
    tail = re.split(r"[: ]", one.where)[-1]
    return ("", int(tail)) if tail.isdecimal() else (one.where, 0)


def without_broken(material: Material) -> Material:
    """The material without the pairs of pictures that cannot be decoded, which are among its refused rows instead; the same where there are no pictures.

    Every picture is decoded once, at the size that the encoder reads, into the cache of pictures.
    """
    if not material.has_pictures:
        return material
    sound = usable_pairs(
        material.pairs,
        picture_size(material.encoder) or SIDE,
        where=material.where,
        most=1.0,
        progress=material.progress,
    )
    if not sound.left_out:
        return material
    wrong = {one.where: one.why for one in sound.left_out}
    kept = [n for n, place in enumerate(material.where) if place not in wrong]
    return replace(
        material,
        pairs=[material.pairs[n] for n in kept],
        where=[material.where[n] for n in kept],
        refused=[*material.refused, *(Refused(place, why, True) for place, why in wrong.items())],
    )

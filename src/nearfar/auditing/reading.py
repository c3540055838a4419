"""Pairs read leniently: rows that are no pairs are kept as findings, swapped columns are looked at, not refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nearfar.auditing.material import Material, Refused
from nearfar.data.pairs import read_pairs
from nearfar.errors import BadInput


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
        refused.append(Refused(where, why))
    refused.sort(key=lambda one: int(re.split(r"[: ]", one.where)[-1]))
    return Material(file.pairs, file.where, str(path), refused=refused, understood=file.understood)

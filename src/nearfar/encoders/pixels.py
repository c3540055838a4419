"""Pictures prepared once: decoded to one size, kept as bytes of colour, picked by number. And what else an image tower is given.

`Pixels` are pictures, `Kept` the rows of a tower that does not move (a locked tower encodes its items once), `Mixed` inputs of several kinds
in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from nearfar.data.pixel_store import decode_all
from nearfar.encoders.tokens import Tokens, lengths_of
from nearfar.errors import BadInput
from nearfar.types import Inputs, Picture

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """n pictures: picture i is `values[rows[i]]`.

    `values` [m, 3, s, s] uint8, red, green and blue planes (it may be memory-mapped); `rows` [n] int64; `cost` is the number of tokens that one
    picture counts as, where batches are cut by tokens. `select` picks numbers: no pixel is copied before it is encoded.
    """

    values: np.ndarray
    rows: np.ndarray
    cost: int = 1

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """What each picture counts as, [n] int64."""
        return np.full(len(self.rows), self.cost, np.int64)

    def select(self, rows: np.ndarray) -> Self:
        """The pictures of these row numbers, in this order; rows may repeat."""
        return type(self)(self.values, self.rows[np.asarray(rows)], self.cost)

    def pixels(self, device: torch.device) -> torch.Tensor:
        """The pictures as they are encoded, uint8 [n, 3, s, s] on `device`."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.values[self.rows])).to(device)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """n items of a locked tower, encoded already: item i is `values[rows[i]]`, [m, w] float32, the rows before the tower's projection.

    `tower` says whose they are.
    """

    values: np.ndarray
    rows: np.ndarray
    tower: str

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> Self:
        """The items of these row numbers, in this order; rows may repeat."""
        return type(self)(self.values, self.rows[np.asarray(rows)], self.tower)


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """n items of several kinds in one order: item i is row `places[i]` of `parts[part_of[i]]`."""

    parts: tuple[Inputs, ...]
    part_of: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.part_of)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, [n] int64."""
        found = np.ones(len(self), np.int64)
        for number, part in enumerate(self.parts):
            mine = self.part_of == number
            found[mine] = lengths_of(part)[self.places[mine]]
        return found

    def select(self, rows: np.ndarray) -> Self:
        """The items of these row numbers, in this order; rows may repeat."""
        part_of, places = self.part_of[np.asarray(rows)], self.places[np.asarray(rows)]
        parts: list[Inputs] = []
        new = np.empty(len(part_of), np.int64)
        for number, part in enumerate(self.parts):
            mine = part_of == number
            parts.append(part.select(places[mine]))
            new[mine] = np.arange(int(mine.sum()))
        return type(self)(tuple(parts), part_of, new)


def mix(parts: Sequence[tuple[Inputs, np.ndarray]], count: int) -> Inputs:
    """Inputs of several kinds as one: each part with the places [its length] its items have among all `count`; a single part stays itself."""
    there = [(part, at) for part, at in parts if len(at)]
    if len(there) == 1:
        return there[0][0]
    part_of, places = np.empty(count, np.int64), np.empty(count, np.int64)
    for number, (_, at) in enumerate(there):
        part_of[at], places[at] = number, np.arange(len(at))
    return Mixed(tuple(part for part, _ in there), part_of, places)


def join(inputs: Sequence[Inputs]) -> tuple[list[Inputs], np.ndarray]:
    """All items of `inputs`, those of one kind together: (one inputs a kind, order [n]), where the rows of the kinds end to end, taken in
    this order, are the rows of `inputs` one after the other.

    Of one kind are texts, the pictures of one store, and the items of one locked tower.
    """
    flat: list[tuple[Inputs, np.ndarray]] = []
    start = 0
    for each in inputs:
        parts = each.parts if isinstance(each, Mixed) else (each,)
        for number, part in enumerate(parts):
            at = np.empty(len(part), np.int64)
            if isinstance(each, Mixed):
                mine = np.flatnonzero(each.part_of == number)
                at[each.places[mine]] = mine
            else:
                at[:] = np.arange(len(part))
            flat.append((part, start + at))
        start += len(each)
    kinds: dict[object, list[tuple[Inputs, np.ndarray]]] = {}
    for part, at in flat:
        kinds.setdefault(_kind(part), []).append((part, at))
    joined = [_joined([part for part, _ in those]) for those in kinds.values()]
    places = np.concatenate([at for those in kinds.values() for _, at in those]) if flat else np.zeros(0, np.int64)
    return joined, np.argsort(places)


def _kind(part: Inputs) -> object:
    if isinstance(part, Tokens):
        return "tokens"
    if isinstance(part, (Pixels, Kept)):
        return type(part), id(part.values)
    return id(part)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tokens):
        return Tokens.concat([part for part in parts if isinstance(part, Tokens)])
    assert isinstance(first, (Pixels, Kept))
    rows = np.concatenate([part.rows for part in parts if isinstance(part, (Pixels, Kept))])
    return Pixels(first.values, rows, first.cost) if isinstance(first, Pixels) else Kept(first.values, rows, first.tower)


def read_pixels(items: Sequence[str], size: int, cost: int = 1) -> Pixels:
    """Pictures at `size` x `size`, decoded or kept from before (see `nearfar.data.pixel_store`); text that names a file is taken for a picture of it.

    Raises `BadInput` where `items` is one string, for a text that names no file, and for pictures that cannot be read: the first of them, and how many.
    """
    if isinstance(items, str) and not isinstance(items, Picture):
        raise BadInput(f"pictures: found one string ({items[:40]!r}). Pass a list: [Picture(path)].")
    found = decode_all([as_picture(item) for item in items], size)
    if found.unreadable:
        first, *others = found.unreadable
        raise BadInput(first.why + (f" So with {len(others):,} more." if others else ""))
    return Pixels(found.values, found.rows, cost)


def as_picture(item: object) -> Picture:
    """A picture itself, or the picture of the file that a text names. Raises `BadInput` for anything else."""
    from pathlib import Path

    if isinstance(item, Picture):
        return item
    if isinstance(item, str):
        try:
            if Path(item).is_file():
                return Picture(item)
        except (OSError, ValueError):  # too long for a name, or with a zero byte: a text
            pass
    raise BadInput(
        f"{str(item)[:60]!r}: this encoder reads pictures, and this names no file. Give paths of pictures, or choose an encoder with a "
        "text tower."
    )

"""Pictures that are not to be had: what is left out for them, how that is told, and when there are too many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nearfar.errors import BadInput

MOST_LEFT_OUT = 0.05
"""Where more than this share of the pairs has no usable picture, the folder is wrong, not a few pictures."""
_SHOWN = 3


class NoPicture(BadInput):
    """A row names a picture that is not there or is empty: the row is left out, not the file."""


class LeftOut(NamedTuple):
    """A pair (or one hard negative of it) that is left out: where it stands, and why."""

    where: str
    why: str


def tell(left_out: Sequence[LeftOut]) -> str:
    """How many were left out and the first of them, in one line; empty for none."""
    if not left_out:
        return ""
    first = "; ".join(f"{one.where}: {one.why.rstrip('.')}" for one in left_out[:_SHOWN])
    more = f"; and {len(left_out) - _SHOWN:,} more" if len(left_out) > _SHOWN else ""
    return f"{len(left_out):,} left out for {'its picture' if len(left_out) == 1 else 'their pictures'} ({first}{more})"


def refuse_too_many(name: str, left_out: Sequence[LeftOut], total: int, most: float = MOST_LEFT_OUT) -> None:
    """Raise `BadInput` where more than the share `most` of `total` pairs is left out."""
    if len(left_out) > most * total:
        raise BadInput(
            f"{name}: of {total:,} pairs {tell(left_out)}. More than {most:.0%} is no accident: mend the pictures or their paths, or take these "
            "pairs out of the file."
        )

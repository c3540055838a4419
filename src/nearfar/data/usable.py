"""Pairs whose pictures can be decoded, and a list of those left out: broken pictures are named and counted before a run, and end none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.data.broken import MOST_LEFT_OUT, LeftOut, refuse_too_many, tell
from nearfar.data.pixel_store import decode_all
from nearfar.types import Pair, Picture, Progress, silent


@dataclass(frozen=True)
class Usable:
    """The pairs whose pictures can be decoded, where each stands, and what was left out."""

    pairs: list[Pair]
    where: list[str]
    left_out: tuple[LeftOut, ...]

    @property
    def said(self) -> str:
        """What was left out, in one line; empty where nothing was."""
        return tell(self.left_out)


def picture_size(encoder: object) -> int | None:
    """The side in pixels at which an encoder, or its image tower, reads pictures; None where it has no such tower."""
    size = getattr(getattr(encoder, "image", encoder), "size", None)
    return size if isinstance(size, int) else None


def usable_pairs(
    pairs: Sequence[Pair],
    size: int,
    *,
    where: Sequence[str] | None = None,
    most: float = MOST_LEFT_OUT,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Usable:
    """Decode every picture of the pairs once (into the cache, so that nothing is lost) and keep the pairs whose pictures are sound.

    A pair whose query or positive is broken is left out; of hard negatives only the broken ones go, with their scores. `where[i]` is `file:line` of pair i.
    Raises `BadInput` with examples where more than the share `most` of the pairs is left out, and as `decode_all`.
    """
    places = list(where) if where is not None else [f"pairs[{number}]" for number in range(len(pairs))]
    pictures = {
        item: item for pair in pairs for item in (pair.query, pair.positive, *pair.negatives) if isinstance(item, Picture)
    }
    if not pictures:
        return Usable(list(pairs), places, ())
    distinct = list(pictures.values())
    found = decode_all(distinct, size, cache=cache, progress=progress)
    broken = {str(distinct[one.number]): one.why for one in found.unreadable}
    if not broken:
        return Usable(list(pairs), places, ())
    kept: list[Pair] = []
    stand: list[str] = []
    left_out: list[LeftOut] = []
    gone: list[LeftOut] = []
    for pair, place in zip(pairs, places, strict=True):
        wrong = next((item for item in (pair.query, pair.positive) if isinstance(item, Picture) and item in broken), None)
        if wrong is not None:
            gone.append(LeftOut(place, broken[wrong]))
            left_out.append(gone[-1])
            continue
        bad = {n for n, item in enumerate(pair.negatives) if isinstance(item, Picture) and item in broken}
        left_out += [LeftOut(place, broken[pair.negatives[n]]) for n in sorted(bad)]
        kept.append(_without(pair, bad) if bad else pair)
        stand.append(place)
    refuse_too_many("pictures", gone, len(pairs), most)
    return Usable(kept, stand, tuple(left_out))


def sound_pairs(
    pairs: Sequence[Pair], where: Sequence[str], encoder: object, progress: Progress = silent
) -> tuple[Sequence[Pair], Sequence[str]]:
    """The pairs whose pictures `encoder` can read, and where they stand; what is left out is told to `progress`. The same pairs where it reads none.

    Raises as `usable_pairs`.
    """
    size = picture_size(encoder)
    if size is None:
        return pairs, where
    found = usable_pairs(pairs, size, where=where or None, progress=progress)
    if found.left_out:
        progress("decode pictures", 1, 1, note=f"{found.said}.")
    return found.pairs, found.where if where else where


def _without(pair: Pair, gone: set[int]) -> Pair:
    """The pair without the hard negatives of these numbers."""
    stay = [n for n in range(len(pair.negatives)) if n not in gone]
    scores = pair.teacher_scores
    return pair.with_negatives(
        (pair.negatives[n] for n in stay),
        teacher_scores=(scores[0], *(scores[n + 1] for n in stay)) if scores else (),
        mined=(pair.mined[n] for n in stay) if pair.mined else (),
    )

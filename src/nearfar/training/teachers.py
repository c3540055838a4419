"""Other models that have a say in training: a guide, whose rows leave out false negatives, and a teacher, whose scores are learned.

Each is asked once, before the first step, and what it said is kept in the run: a run taken up again does not ask anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nearfar.data.sampling import PairTable
from nearfar.embedding import embed
from nearfar.encoders import load_encoder
from nearfar.errors import Damaged
from nearfar.files import write_atomic
from nearfar.training.config import Config
from nearfar.training.objective import LOSSES, loss_weights
from nearfar.types import Encoder, Pair, Progress, silent


@dataclass(frozen=True)
class Teachers:
    """The models that a run asks, None where it asks none."""

    guide: Encoder | None = None
    teacher: Encoder | None = None

    def fingerprints(self) -> dict[str, str]:
        """By what they are asked for."""
        found = {"guide": self.guide, "teacher": self.teacher}
        return {name: encoder.fingerprint() for name, encoder in found.items() if encoder is not None}


def open_teachers(config: Config, progress: Progress = silent) -> Teachers:
    """Open the models that `loss.guide` and `loss.teacher` name, where a loss of the run asks them. Raises as `load_encoder`."""
    names = {*loss_weights(config), *(config.mixture.losses or {}).values()}
    needs = frozenset().union(*(LOSSES[name].needs for name in names))
    loss = config.loss
    return Teachers(
        load_encoder(loss.guide, progress=progress) if loss.guide and "guide" in needs else None,
        load_encoder(loss.teacher, progress=progress) if loss.teacher and "teacher" in needs else None,
    )


def guide_rows(run: Path, guide: Encoder | None, table: PairTable, progress: Progress) -> tuple[Tensor, Tensor] | None:
    """The guide's rows of all queries and documents of the table."""
    if guide is None:
        return None
    count = len(table.queries)

    def ask() -> np.ndarray:
        queries = embed(guide, table.queries, role="query", progress=progress, stage="guide queries")
        return np.concatenate([queries, embed(guide, table.documents, progress=progress, stage="guide documents")])

    rows = torch.from_numpy(_kept(run / "guide.npy", ask, (count + len(table.documents), guide.dim)))
    return rows[:count], rows[count:]


def taught_pairs(run: Path, teacher: Encoder | None, pairs: Sequence[Pair], progress: Progress) -> list[Pair]:
    """The pairs with a teacher's scores where they had none of their own: its own, or of one negative and a score, that as the margin."""
    lacking = [i for i, pair in enumerate(pairs) if len(pair.teacher_scores) != len(pair.negatives) + 1]
    found = list(pairs)
    if teacher is None:
        for i in lacking:
            pair = pairs[i]
            if len(pair.negatives) == 1 and pair.score is not None:
                found[i] = replace(pair, teacher_scores=(pair.score, 0.0))
        return found
    asked = [pairs[i] for i in lacking]
    counts = [1 + len(pair.negatives) for pair in asked]
    scores = _kept(run / "teacher.npy", lambda: teacher_scores(teacher, asked, progress), (sum(counts),))
    stops = np.cumsum([0, *counts])
    for i, start, stop in zip(lacking, stops, stops[1:], strict=False):
        found[i] = replace(pairs[i], teacher_scores=tuple(scores[start:stop].tolist()))
    return found


def teacher_scores(teacher: Encoder, pairs: Sequence[Pair], progress: Progress = silent) -> np.ndarray:
    """The teacher's similarity of each query to its positive and then its hard negatives, pair after pair: float32."""
    queries = embed(teacher, [p.query for p in pairs], role="query", progress=progress, stage="teacher queries")
    texts = [text for p in pairs for text in (p.positive, *p.negatives)]
    documents = embed(teacher, texts, progress=progress, stage="teacher documents")
    rows = np.repeat(np.arange(len(pairs)), [1 + len(p.negatives) for p in pairs])
    return np.einsum("nd,nd->n", queries[rows], documents).astype(np.float32)


def _kept(path: Path, ask: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """What `path` holds, or, where it is not there yet, what `ask` says, kept there."""
    if not path.exists():
        found = ask()

        def write(place: Path) -> None:
            with open(place, "wb") as handle:
                np.save(handle, found, allow_pickle=False)

        write_atomic(path, write)
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Damaged(f"{path}: it cannot be read ({error}). Remove it, and it is made anew.") from error
    if rows.shape != shape:
        raise Damaged(f"{path}: expected shape {shape}, found {rows.shape}. Remove it, and it is made anew.")
    return rows

"""Retention: what a model could do before it was tuned, and what of that is left: on a task, or by the neighbours it keeps.

Tuning on one domain can undo what was learned of others ("catastrophic forgetting", McCloskey and Cohen 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nearfar.errors import BadInput, Mismatch
from nearfar.evaluation.compare import Comparison, compare
from nearfar.evaluation.evaluate import Evaluation
from nearfar.metrics.ranking import label
from nearfar.metrics.significance import bootstrap_interval
from nearfar.types import Encoder, Progress, silent

NEIGHBOURS = 10
"""How many nearest neighbours of a text are compared."""


class Overlap(NamedTuple):
    """The mean share of each text's `k` nearest neighbours that two models have in common, in [low, high] with 95 % confidence."""

    mean: float
    low: float
    high: float
    k: int
    texts: int
    source: str
    """In words, what the texts are."""


@dataclass(frozen=True)
class Retention:
    """What is left of what the start could do: either start and trained on a retention task, or the overlap of their neighbours."""

    start: Evaluation | None = None
    trained: Evaluation | None = None
    comparison: Comparison | None = None
    """Trained against start, on the retention task."""
    overlap: Overlap | None = None

    @property
    def verdict(self) -> str:
        """`improved`, `not shown` or `worse` on the retention task; `not judged` where neighbours were compared."""
        return self.comparison.verdict if self.comparison else "not judged"

    @property
    def sentences(self) -> list[str]:
        """What is to be said of it, in plain words."""
        found = self.comparison
        if found and self.start and self.trained:
            before, after = (float(np.mean(e.metrics[found.metric])) for e in (self.start, self.trained))
            said = (
                f"{label(found.metric)} {before:.3f} before, {after:.3f} after, {found.difference:+.3f} [{found.low:+.3f}, "
                f"{found.high:+.3f}], {'p < 0.001' if found.p < 0.001 else f'p = {found.p:.3f}'}, on {self.start.task} ({len(self.start.query_ids):,} queries)"
            )
            return [
                {
                    "worse": f"FORGETTING is shown: the model got worse at what it could do before: {said}.",
                    "not shown": f"Retention: no change is shown at what it could do before: {said}.",
                    "improved": f"Retention: better, too, at what it could do before: {said}.",
                }[found.verdict]
            ]
        if self.overlap and self.overlap.low == 1:
            return [
                f"Outside the target domain every text kept its nearest neighbours ({self.overlap.texts:,} {self.overlap.source})."
            ]
        if self.overlap:
            mean, low, high, k = *(self.overlap.k * x for x in self.overlap[:3]), self.overlap.k
            return [
                f"Outside the target domain: of the {k} nearest neighbours of a text, {mean:.1f} [{low:.1f}, {high:.1f}] are those of "
                f"the start ({self.overlap.texts:,} {self.overlap.source}; reported, not judged: --retain TASK judges)."
            ]
        return []

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds of it."""
        told: dict[str, Any] = {"kind": "neighbours" if self.overlap else "task", "verdict": self.verdict}
        if self.overlap:
            told["overlap"] = self.overlap._asdict()
        if self.comparison and self.start and self.trained:
            told["task"] = self.start.task
            told["queries"] = len(self.start.query_ids)
            told["systems"] = {e.system: e.summary() for e in (self.start, self.trained)}
            told["comparison"] = self.comparison.to_json()
        return told


def judge_retention(start: Evaluation, trained: Evaluation, metric: str) -> Retention:
    """Both evaluations on the retention task, compared query by query. Raises as `compare`."""
    return Retention(start, trained, compare(trained, start, metric))


def compare_neighbours(
    start: Encoder, trained: Encoder, texts: Sequence[str], *, source: str, k: int = NEIGHBOURS, progress: Progress = silent
) -> Retention:
    """The overlap of the two models' `k` nearest neighbours among `texts` (as documents). O(n^2 d); equal models are not encoded twice."""
    from nearfar.embedding import embed

    before = embed(start, texts, progress=progress, stage="retention")
    same = start.fingerprint() == trained.fingerprint()
    after = before if same else embed(trained, texts, progress=progress, stage="retention")
    found = bootstrap_interval(neighbour_overlap(before, after, k))
    return Retention(overlap=Overlap(*found, k, len(texts), source))


def neighbour_overlap(
    before: Float[np.ndarray, "n d"], after: Float[np.ndarray, "n e"], k: int = NEIGHBOURS
) -> Float[np.ndarray, " n"]:
    """For each of n texts the share of its `k` nearest others (by dot product) that both sets of rows agree on, 0..1.

    Unrelated rows agree on k / (n - 1) on average. Raises `Mismatch` for unequal numbers of rows, `BadInput` for fewer than k + 2 texts.
    """
    from nearfar.similarity.nearest import topk

    if len(before) != len(after):
        raise Mismatch(f"{len(before):,} rows before and {len(after):,} after: both models must encode the same texts.")
    if len(before) < k + 2:
        raise BadInput(
            f"{len(before):,} texts: with fewer than {k + 2} the {k} nearest of any are nearly all. Give more texts."
        )
    itself = np.arange(len(before))
    one, other = (topk(rows, rows, k, exclude=itself).ids for rows in (before, after))
    return (one[:, :, None] == other[:, None, :]).sum(axis=(1, 2)) / k

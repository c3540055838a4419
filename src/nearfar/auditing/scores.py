"""Label noise in scores: equal texts scored differently, and scores that a model's similarity does not follow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from nearfar.auditing.material import Material
from nearfar.data.text import agree, counted
from nearfar.types import Evidence, Finding

APART = 0.25
"""Scores of the same two texts that differ by more than this share of the range contradict each other."""
NOISY = 0.01
"""From this share of pairs on, contradictions are more than slips."""
UNRELATED = 0.1
"""A rank correlation with the model below this: the scores follow something else."""


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 0, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Rank correlation (Spearman 1904); 0 where one of them does not vary."""
    x, y = ranks(a) - (len(a) - 1) / 2, ranks(b) - (len(b) - 1) / 2
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm else 0.0


def check_scores(material: Material) -> list[Finding]:
    """`conflicting_scores`, counted; with a model `scores_and_model`: their rank correlation, and the pairs that disagree most."""
    rows = [row for row, pair in enumerate(material.pairs) if pair.score is not None]
    values = np.array([pair.score for pair in material.pairs if pair.score is not None], np.float64)
    if len(rows) < 2 or np.ptp(values) == 0:
        return []
    return _conflicts(material, rows, values) + _against_model(material, np.array(rows), values)


def _conflicts(material: Material, rows: list[int], values: np.ndarray) -> list[Finding]:
    by_texts: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for row, value in zip(rows, values.tolist(), strict=True):
        key = (int(material.queries.number[row]), int(material.positives[row]))
        by_texts.setdefault(key, []).append((value, row))
    apart = [
        (min(found), max(found)) for found in by_texts.values() if max(found)[0] - min(found)[0] > APART * float(np.ptp(values))
    ]
    if not apart:
        return []
    share = len(apart) / len(by_texts)
    return [
        Finding(
            "conflicting_scores",
            "data",
            "warning" if share >= NOISY else "info",
            f"{counted(len(apart), 'pair')} of texts ({share:.1%}) {agree(len(apart), 'are')} scored twice, more than {APART:.0%} of the range apart.",
            len(apart),
            len(by_texts),
            share,
            "Keep one score for the same two texts: their mean, or the one you trust.",
            examples=tuple(
                Evidence(material.where[low[1]], f"{low[0]:g} here, {high[0]:g} at {material.where[high[1]]}")
                for low, high in apart[:3]
            ),
        )
    ]


def _against_model(material: Material, rows: np.ndarray, values: np.ndarray) -> list[Finding]:
    if material.encoder is None or len(rows) < 30:
        return []
    queries, documents = material.query_rows[material.queries.number[rows]], material.document_rows[material.positives[rows]]
    close = (queries * documents).sum(axis=1)
    whole = spearman(values, close)
    gap = np.abs(ranks(values) - ranks(close)) / len(rows)
    order = np.argsort(-gap, kind="stable")
    deciles = [round(float(gap[part].mean()), 2) for part in np.array_split(np.argsort(values, kind="stable"), 10)]
    far = int((gap > 0.5).sum())
    return [
        Finding(
            "scores_and_model",
            "data",
            "warning" if whole < UNRELATED else "info",
            f"scores and {material.model_name}'s similarity have a rank correlation of {whole:.2f}; {far:,} pairs stand more than half the file apart in the "
            f"two orders. Mean distance by tenth of the scores, lowest first: {' '.join(map(str, deciles))}.",
            far,
            len(rows),
            far / len(rows),
            "Read the examples: either the score is wrong, or the model has something to learn here.",
            examples=tuple(
                item._replace(text=f"score {values[i]:g}, cosine {close[i]:.2f}: {item.text}")
                for i, item in zip(order[:3], material.show(rows[order[:3]].tolist()), strict=True)
            ),
        )
    ]

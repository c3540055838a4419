"""Mismatched positives: the share of pairs whose positive is no nearer to the query than any other positive, estimated.

Decisions. Each pair's own positive is ranked among some hundred other positives of the file. Of a pair whose positive was exchanged for another row's, the
rank is uniform whatever the similarity is, because the positive is a draw from the same heap; of a pair that belongs together it is near the top. So the share
of mismatched pairs is the density of the lower ranks, as Storey 2002 ("A direct approach to false discovery rates") estimates the share of true
null hypotheses from large p-values. Where that density is the same from the first tenth on, all beyond it is counted. Pairs that belong together but rank low (an abbreviation in place of the name) make that too large. Their density
falls: measured on real sets (`docs/audit.md`) the last quarter holds about a third of what the quarter before the middle has more than it, which is taken off.
The interval reaches from what is left, less its sampling error, to the density itself, more its own: both ends are honest about what cannot be known.
A few strangers among thousands drown in the sampling error of what ranks low by itself; but a shuffle can be told by what it did to both rows (`exchanged`).
With pictures words tell nothing: ranks are by the model alone, which must not have been trained on these pairs (it would know them by heart), or beside pairs mismatched on purpose (`controls.by_controls`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nearfar.auditing.exchanged import Exchanged, exchanged
from nearfar.auditing.material import EXAMPLES, Material, severity_of
from nearfar.auditing.nearness import Nearness, judged
from nearfar.data.text import shorten
from nearfar.metrics import share_interval
from nearfar.metrics.shares import Z
from nearfar.types import Evidence, Finding

LEAST = 200
"""Fewer pairs than this give an interval that says nothing."""
DECAY = 1 / 3
"""The density of pairs that belong together in the last quarter, of what the second quarter has more than it."""
TELL = 0.5
"""The share of pairs that must share words with some positive, for words to tell who belongs to whom."""
WHOLE = 0.9
"""From this share on no pair shows that the model could tell."""
FLOOR, MANY = 0.003, 0.1
"""Lower bounds from which it is a warning, and critical."""


def percentiles(material: Material) -> tuple[np.ndarray, Float[np.ndarray, " m"]]:
    """(rows, the share of other positives that are nearer to the row's query than its own, ties half): 0 is first, uniform is chance. See `Nearness`."""
    near = Nearness(material)
    told, ranks = near.percentiles()
    return near.rows[told], ranks


class Mismatched(NamedTuple):
    """The estimated share of mismatched pairs, its interval, what was taken off for pairs that belong together and rank low, and whether none seemed to: all ranks beyond the first are as flat as chance."""

    share: float
    low: float
    high: float
    taken: float
    is_flat: bool = False


def estimate(ranks: Float[np.ndarray, " m"]) -> Mismatched:
    """The share of mismatched pairs, from the percentile of each [m]."""
    n = len(ranks)
    early, later = int(((ranks > 0.1) & (ranks <= 0.25)).sum()), int((ranks > 0.25).sum())
    if early <= later / 5 + np.sqrt(early + later / 25):
        # as flat as chance already from the first tenth on: no pair that belongs together ranks low, and all ranks beyond count
        flat = share_interval(early + later, n)
        return Mismatched(*(min(1.0, part / 0.9) for part in flat), taken=0.0, is_flat=True)
    last, second = int((ranks > 0.75).sum()), int(((ranks > 0.25) & (ranks <= 0.5)).sum())
    top = share_interval(last, n)
    decay = DECAY if second > last else 0.0
    taken = 4 * decay * (second - last) / n
    share = min(1.0, max(0.0, 4 * last / n - taken))
    spread = 4 * np.sqrt((1 + decay) ** 2 * last + decay**2 * second) / n
    return Mismatched(share, float(max(0.0, share - Z * spread)), float(min(1.0, 4 * top.high)), taken)


def why_not(material: Material) -> str:
    """Why nothing can be said of mismatched positives before anything is compared; empty where something can."""
    rows = judged(material)
    if material.has_pictures and material.encoder is None:
        return "words say nothing of pictures"
    if len(rows) < LEAST:
        return f"fewer than {LEAST} pairs give no estimate"
    if len(np.unique(material.positives[rows])) < LEAST:
        return f"fewer than {LEAST} distinct positives give no estimate"
    return ""


def check_matching(material: Material) -> list[Finding]:
    """`mismatched_positives`, estimated."""
    if why_not(material):
        return []
    near = Nearness(material)
    told, ranks = near.percentiles()
    by_words = near.words_tell()
    if len(told) < LEAST or (material.encoder is None and by_words < TELL):
        return []
    moved = exchanged(near, told, ranks)
    share, low, high, taken, is_flat = beside(estimate(ranks), moved, len(told))
    # where more had to be taken off than is left, the similarity does not know these texts well enough to accuse anyone; words alone know least
    doubt = taken if material.encoder is not None else 2 * taken
    # where words say nothing of most pairs (another language, codes), a model that ranks pairs everywhere between first and chance, or all by chance, knows little of them, too
    is_unsure = share < doubt or (by_words < TELL and (not is_flat or low > WHOLE))
    severity = "info" if is_unsure else severity_of(low, FLOOR, MANY)
    if moved.is_proof and severity == "info":  # however few: what put these in the wrong rows may have done more
        severity = "warning"
    by = (
        material.model_name
        if material.has_pictures
        else f"{material.model_name} and BM25"
        if material.encoder is not None
        else "BM25 alone"
    )
    look = "" if material.encoder is not None else " A model tells more: add --model static."
    if severity == "info":
        what = f"no proof of shuffled positives: by {by}, {share:.1%} [{low:.1%}, {high:.1%}] are no nearer to their query than a random one."
        remedy = f"Nothing to do.{look}"
    else:
        what = f"about {share:.1%} [{low:.1%}, {high:.1%}] of the positives are no nearer to their query than a random one, by {by}."
        remedy = f"Look at the examples: were rows sorted or joined apart from each other? Join them again by their key.{look}"
        if moved.is_proof:
            what += (
                f" {len(moved.pairs):,} of these queries are nearest to a positive that stands just as lost in another row; by chance {moved.by_chance:.1f} would be. "
                "So rows were exchanged with each other."
            )
            remedy = f"The examples say where what a row lost is now. Join the two columns again by their key, or make the file again from where they were together.{look}"
    worst = near.rows[told[np.argsort(-ranks, kind="stable")]]
    return [
        Finding(
            "mismatched_positives",
            "data",
            severity,
            what,
            round(share * len(material)),
            len(material),
            share,
            remedy,
            low,
            high,
            () if severity == "info" else show_exchanged(near, moved) if moved.is_proof else material.show(worst.tolist()),
        )
    ]


def beside(told: Mismatched, moved: Exchanged, count: int) -> Mismatched:
    """The estimate, and no less than what is known to have been exchanged among so many pairs."""
    low = max(told.low, moved.at_least() / count)
    share = max(told.share, low, moved.about() / count)
    return told._replace(share=share, low=low, high=max(told.high, share))


def show_exchanged(near: Nearness, moved: Exchanged) -> tuple[Evidence, ...]:
    """The first few pairs, and where what their queries may have lost is now."""
    material = near.material
    found: list[Evidence] = []
    for first, second in zip(moved.pairs[:EXAMPLES], moved.holders[:EXAMPLES], strict=True):
        row, holder = int(near.rows[first]), int(near.rows[second])
        pair, nearer = material.pairs[row], material.pairs[holder].positive
        text = f"{shorten(pair.query, 60)} -> {shorten(pair.positive, 60)}; nearer is that of {material.where[holder]}: {shorten(nearer, 60)}"
        found.append(Evidence(material.where[row], text))
    return tuple(found)

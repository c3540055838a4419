"""Mismatched pairs where no model knows them yet: models trained on these very pairs, beside pairs that were mismatched on purpose.

Decisions. A model knows by heart what it was trained on, mismatched pairs too, so its ranks of them prove nothing by themselves. But a pair mismatched on purpose is learned as any mismatched pair is: what becomes of these controls becomes of
all (after Pleiss 2020, arXiv 2001.10528, "threshold samples"). That tells how many there are. Which they are, models tell better that did not learn from the worst of them (`rank_again`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from nearfar.auditing.matching import LEAST, Mismatched, percentiles
from nearfar.auditing.material import Material
from nearfar.errors import BadInput
from nearfar.metrics.shares import Z
from nearfar.types import Encoder, Pair

CONTROLS, ENOUGH = 0.1, 20
"""The share of pairs that are mismatched on purpose, and the fewest of them that must still rank low."""
LATER, MOST = 1 / 4, 0.7
"""Of pairs that belong together and rank in the last half, those in its second half (measured, `docs/images.md`); and the most that this may be of the same share of the controls: where it is all of it, nothing tells them apart."""


def by_controls(
    material: Material, fit: Callable[[Sequence[Pair]], Encoder], *, runs: int = 3, share: float = CONTROLS
) -> tuple[np.ndarray, Float[np.ndarray, " m"], Mismatched]:
    """(rows, their percentiles, what that says of mismatched pairs) by models trained on these very pairs, of which a known share was mismatched on purpose.

    `fit` trains an encoder on the pairs it is given; briefly: a model that knows all by heart tells nothing. Each of `runs` times the positives of another `share` of the pairs are exchanged. Those controls
    are learned as any mismatched pair is, so a rank that only a share of them reaches is reached by that share of the mismatched (after Pleiss 2020, arXiv 2001.10528, "threshold samples"). Ranks are means over the runs
    in which a pair was no control: let `fit` draw by another seed each time, and what one model is unsure of is averaged away. Raises `BadInput` for fewer than `LEAST` pairs.
    """
    count = len(material)
    if count < LEAST:
        raise BadInput(f"{material.name}: {count} pairs are too few to be compared with controls. Give {LEAST} or more.")
    rng = np.random.default_rng(material.seed)
    order, size = rng.permutation(count), max(1, round(share * count))
    total, times = np.zeros(count), np.zeros(count)
    mine: list[np.ndarray] = []
    planted: list[np.ndarray] = []
    for run in range(runs):
        chosen = order[np.arange(run * size, (run + 1) * size) % count]
        given = rng.permutation(chosen)
        moved = material.positives[given] != material.positives[chosen]
        pairs = list(material.pairs)
        for row, other in zip(chosen[moved].tolist(), given[moved].tolist(), strict=True):
            pairs[row] = replace(pairs[row], positive=material.pairs[other].positive)
        rows, ranks = percentiles(replace(material, pairs=pairs, encoder=fit(pairs), refused=()))
        is_control = np.isin(rows, chosen)
        planted.append(ranks[np.isin(rows, chosen[moved])])
        mine.append(ranks[~is_control])
        total[rows[~is_control]] += ranks[~is_control]
        times[rows[~is_control]] += 1
    told = beside_controls(np.concatenate(mine), np.concatenate(planted), runs)
    rows = np.flatnonzero(times)
    return rows, total[rows] / times[rows], told


def beside_controls(ranks: Float[np.ndarray, " m"], controls: Float[np.ndarray, " c"], runs: int = 1) -> Mismatched:
    """The share of mismatched pairs, from percentiles of pairs [m] and of controls [c], both pooled over so many runs on the same pairs.

    Of the pairs a share p is mismatched, and ranks as the controls do. So the share of pairs in a part of the ranks, over that of the controls, is p and what is there of those that belong together and were not learned
    yet. Of these the last quarter holds `LATER` of what the last half holds: two equations, from which p follows. The interval is that sampling error, and reaches up to what nothing is taken off from. Where fewer than `ENOUGH`
    controls are left in the last quarter nothing is known: [0, 1].
    """
    last, half = (int((controls > bar).sum()) for bar in (0.75, 0.5))
    if last < ENOUGH:
        return Mismatched(0.0, 0.0, 1.0, taken=0.0)
    first, second = (float((ranks > bar).mean()) / (found / len(controls)) for bar, found in ((0.75, last), (0.5, half)))
    part = min(MOST, LATER * half / last)
    taken = max(0.0, second - first) * part / (1 - part)
    share = min(1.0, max(0.0, first - taken))
    # the runs are on the same pairs: their ranks count once
    spread = Z * first * np.sqrt(runs / max(1, int((ranks > 0.75).sum())) + 1 / last)
    return Mismatched(share, float(max(0.0, share - spread / (1 - part))), float(min(1.0, first + spread)), taken)


def rank_again(
    material: Material,
    fit: Callable[[Sequence[Pair]], Encoder],
    rows: np.ndarray,
    ranks: Float[np.ndarray, " m"],
    share: float,
    *,
    rounds: int = 3,
    folds: int = 4,
) -> tuple[np.ndarray, Float[np.ndarray, " m"]]:
    """(rows, their percentiles) by models that did not learn from the `share` of these rows that rank lowest, nor in turn from any other pair.

    Each round leaves those out, and of the rest a part for each of `folds` models: what a model says of pairs it has not seen is not known by heart. A pair's rank is the mean over all of them. The next
    round leaves out what is lowest by then. `rounds` times `folds` models are trained: let `fit` draw by another seed each time, and take as many steps of fewer pairs.
    """
    count, rng = len(material), np.random.default_rng(material.seed)
    for _ in range(rounds):
        gone = np.isin(np.arange(count), worst(rows, ranks, share))
        fold = rng.permutation(count) % folds
        total = np.zeros(count)
        for number in range(folds):
            left = [pair for pair, out in zip(material.pairs, (gone | (fold == number)).tolist(), strict=True) if not out]
            rows, found = percentiles(replace(material, encoder=fit(left), refused=()))
            total[rows] += found / folds
        ranks = total[rows]
    return rows, ranks


def worst(rows: np.ndarray, ranks: Float[np.ndarray, " m"], share: float) -> np.ndarray:
    """The share of these rows that rank lowest, ascending: what to leave out of pairs of which so many are mismatched. Some of them are not."""
    return np.sort(rows[np.argsort(-ranks, kind="stable")[: round(share * len(rows))]])

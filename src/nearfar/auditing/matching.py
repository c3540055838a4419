"""Mismatched positives: the share of pairs whose positive is no nearer to the query than any other positive, estimated.

Decisions. Each pair's own positive is ranked among some hundred other positives of the file. Of a pair whose positive was exchanged for another row's, the
rank is uniform whatever the similarity is, because the positive is a draw from the same heap; of a pair that belongs together it is near the top. So the share
of mismatched pairs is the density of the lower ranks, as Storey 2002 ("A direct approach to false discovery rates") estimates the share of true
null hypotheses from large p-values. Where that density is the same from the first tenth on, all beyond it is counted. Pairs that belong together but rank low (an abbreviation in place of the name) make that too large. Their density
falls: measured on real sets (`docs/audit.md`) the last quarter holds about a third of what the quarter before the middle has more than it, which is taken off.
The interval reaches from what is left, less its sampling error, to the density itself, more its own: both ends are honest about what cannot be known.
Pairs of one group ask for one thing, so their queries are asked together, and none of their positives is another's rival: a short text says little, sixty of one intent say it all.
With pictures words tell nothing: ranks are by the model alone, which must not have been trained on these pairs (it would know them by heart), or beside pairs mismatched on purpose (`by_controls`).
Ranks are by BM25, or by the sum of BM25 and a model's cosine, each less the document's mean and in units of its spread over the query's others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nearfar.auditing.material import Material, severity_of
from nearfar.auditing.words import Terms
from nearfar.errors import BadInput
from nearfar.metrics import share_interval
from nearfar.metrics.shares import Z
from nearfar.types import Encoder, Finding, Pair

PAIRS = 20_000
"""Pairs looked at, at most: chosen by the seed."""
OTHERS = 512
"""Other positives that each is ranked among."""
ASKED = 64
"""Queries of one group that are asked together, at most."""
CONTROLS, ENOUGH = 0.1, 20
"""The share of pairs that are mismatched on purpose, and the fewest of them that must still rank low."""
LATER = 1 / 3
"""Of pairs that belong together and rank in the last half, those in its second half."""
SHRUNK = 0.1
"""How far the variances inside groups are drawn to their mean."""
LEAST = 200
"""Fewer pairs than this give an interval that says nothing."""
DECAY = 1 / 3
"""The density of pairs that belong together in the last quarter, of what the second quarter has more than it."""
FLOOR, MANY = 0.003, 0.1
"""Lower bounds from which it is a warning, and critical."""
_ROWS = 2_048
_TIE = 1e-6


def percentiles(material: Material) -> tuple[np.ndarray, Float[np.ndarray, " m"]]:
    """(rows, the share of other positives that are nearer to the row's query than its own, ties half): 0 is first, uniform is chance.

    Without a model a query that shares no word with any of them says nothing, and is not among the rows (Chinese, which has no spaces).
    """
    rng = np.random.default_rng(material.seed)
    rows = _judged(material)
    if len(rows) > PAIRS:
        rows = np.sort(rng.choice(rows, PAIRS, replace=False))
    pairs = [material.pairs[row] for row in rows]
    group = _groups(pairs)
    asked, size = _asked(pairs, group)
    words = None if material.has_pictures else Terms(asked, [pair.positive for pair in pairs])
    others = np.sort(rng.choice(len(pairs), min(OTHERS, len(pairs)), replace=False))
    own = np.arange(len(pairs))
    means = words.means() * (len(asked) / size.sum()) if words is not None else None
    vectors = _vectors(material, rows, group)
    found = np.empty(len(pairs))
    told = np.full(len(pairs), vectors is not None)
    for start in range(0, len(pairs), _ROWS):
        part = own[start : start + _ROWS]
        # one's own document among the others is no other, nor is what the file says is of one thing with it
        itself = material.positives[rows[part]][:, None] == material.positives[rows[others]][None, :]
        itself |= group[part][:, None] == group[others][None, :]
        table, mine = np.zeros(itself.shape), np.zeros(len(part))
        if words is not None and means is not None:
            several = size[group[part]]
            table = words.against(group[part], others) / several[:, None]
            mine = words.scores(group[part], part) / several
            told[part] |= table.any(axis=1) | (mine > 0)
            table, mine = _standard(table - means[others], mine - means[part], itself)
        if vectors is not None:
            queries, documents = vectors
            centre = documents @ queries.mean(axis=0)
            more, its = _standard(
                queries[part] @ documents[others].T - centre[others],
                (queries[part] * documents[part]).sum(axis=1) - centre[part],
                itself,
            )
            table, mine = table + more, mine + its
        nearer = np.where(table > mine[:, None] + _TIE, 1.0, np.where(table < mine[:, None] - _TIE, 0.0, 0.5))
        nearer[itself] = 0
        found[part] = nearer.sum(axis=1) / np.maximum((~itself).sum(axis=1), 1)
    return rows[told], found[told]


def _judged(material: Material) -> np.ndarray:
    """The rows that say their texts belong together: all, or where there are scores those of the upper half of their range."""
    scores = [pair.score for pair in material.pairs]
    if any(score is None for score in scores):
        return np.arange(len(material))
    values = np.array(scores, np.float64)
    return np.flatnonzero(values >= (values.min() + values.max()) / 2)


def _groups(pairs: Sequence[Pair]) -> np.ndarray:
    """The number of each pair's group, none left out from 0 on; pairs without one are their own, and so are all where one group holds half of them (it says nothing)."""
    names: dict[str, int] = {}
    found = np.array([names.setdefault(p.group, len(names)) if p.group is not None else -1 for p in pairs], np.int64)
    alone = found < 0
    found[alone] = len(names) + np.arange(int(alone.sum()))
    return found if np.bincount(found).max(initial=0) <= len(pairs) / 2 else np.arange(len(pairs))


def _asked(pairs: Sequence[Pair], group: np.ndarray) -> tuple[list[str], np.ndarray]:
    """(the queries of each group as one text, how many those are): at most `ASKED`, the first ones."""
    found: list[list[str]] = [[] for _ in range(int(group.max(initial=-1)) + 1)]
    for number, pair in zip(group.tolist(), pairs, strict=True):
        if len(found[number]) < ASKED:
            found[number].append(pair.query)
    return ["\n".join(texts) for texts in found], np.array([len(texts) for texts in found])


def _vectors(material: Material, rows: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(the mean row of the queries of each pair's group, the row of its positive), both unit length; None without a model.

    Where groups are large enough to tell what varies inside them from what sets them apart, what varies inside counts for less (`_whiten`).
    """
    if material.encoder is None:
        return None
    queries, documents = material.query_rows[material.queries.number[rows]], material.document_rows[material.positives[rows]]
    sizes = np.bincount(group)
    sums = np.zeros((len(sizes), queries.shape[1]), np.float32)
    np.add.at(sums, group, queries)
    asked = (sums / sizes[:, None])[group]
    freedom = len(queries) - len(sizes)
    if freedom >= 2 * queries.shape[1]:
        turn = _whiten(queries - asked, freedom)
        asked, documents = (asked - asked.mean(axis=0)) @ turn, (documents - documents.mean(axis=0)) @ turn
    return _unit(asked), _unit(documents)


def _whiten(inside: Float[np.ndarray, "q d"], freedom: int) -> Float[np.ndarray, "d d"]:
    """The map under which queries vary alike in all directions inside their groups, by their deviations from their groups' means.

    Within-class covariance normalization (Hatch, Kajarekar and Stolcke 2006), shrunk a little towards equal variances. It is learned from queries alone: no positive, right or wrong, has a part in it.
    """
    values, axes = np.linalg.eigh(inside.T.astype(np.float64) @ inside / freedom)
    return (axes / np.sqrt((1 - SHRUNK) * values + SHRUNK * values.mean() + 1e-12)).astype(np.float32)


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _standard(table: np.ndarray, mine: np.ndarray, itself: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both less the row's mean, in units of its spread, over others alone."""
    others = np.where(itself, np.nan, table)
    middle = np.nanmean(others, axis=1)
    spread = np.nanstd(others, axis=1) + 1e-6
    return (table - middle[:, None]) / spread[:, None], (mine - middle) / spread


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

    The share of pairs in the last quarter is that of controls there times the share of mismatched pairs, and some that belong together and were not learned yet. Of those there are about a third as many as in the
    last half (`docs/images.md`), which is taken off; the interval is as that of `estimate`. Where fewer than `ENOUGH` controls are left there nothing is known: [0, 1].
    """
    last, half = (int((controls > bar).sum()) for bar in (0.75, 0.5))
    if last < ENOUGH:
        return Mismatched(0.0, 0.0, 1.0, taken=0.0)
    first, second = (float((ranks > bar).mean()) / (found / len(controls)) for bar, found in ((0.75, last), (0.5, half)))
    taken = max(0.0, second - first) * LATER / (1 - LATER)
    share = min(1.0, max(0.0, first - taken))
    # the runs are on the same pairs: their ranks count once
    spread = Z * first * np.sqrt(runs / max(1, int((ranks > 0.75).sum())) + 1 / last)
    return Mismatched(share, float(max(0.0, share - spread)), float(min(1.0, first + spread)), taken)


def worst(rows: np.ndarray, ranks: Float[np.ndarray, " m"], share: float) -> np.ndarray:
    """The share of these rows that rank lowest, ascending: what to leave out of pairs of which so many are mismatched. Some of them are not."""
    return np.sort(rows[np.argsort(-ranks, kind="stable")[: round(share * len(rows))]])


class Mismatched(NamedTuple):
    """The estimated share of mismatched pairs, its interval, and what was taken off for pairs that belong together and rank low."""

    share: float
    low: float
    high: float
    taken: float


def estimate(ranks: Float[np.ndarray, " m"]) -> Mismatched:
    """The share of mismatched pairs, from the percentile of each [m]."""
    n = len(ranks)
    early, later = int(((ranks > 0.1) & (ranks <= 0.25)).sum()), int((ranks > 0.25).sum())
    if early <= later / 5 + np.sqrt(early + later / 25):
        # as flat as chance already from the first tenth on: no pair that belongs together ranks low, and all ranks beyond count
        flat = share_interval(early + later, n)
        return Mismatched(*(min(1.0, part / 0.9) for part in flat), taken=0.0)
    last, second = int((ranks > 0.75).sum()), int(((ranks > 0.25) & (ranks <= 0.5)).sum())
    top = share_interval(last, n)
    decay = DECAY if second > last else 0.0
    taken = 4 * decay * (second - last) / n
    share = min(1.0, max(0.0, 4 * last / n - taken))
    spread = 4 * np.sqrt((1 + decay) ** 2 * last + decay**2 * second) / n
    return Mismatched(share, float(max(0.0, share - Z * spread)), float(min(1.0, 4 * top.high)), taken)


def check_matching(material: Material) -> list[Finding]:
    """`mismatched_positives`, estimated."""
    if len(_judged(material)) < LEAST or len(np.unique(material.positives)) < LEAST:
        return []
    if material.has_pictures and material.encoder is None:
        return []
    rows, ranks = percentiles(material)
    if len(rows) < LEAST:
        return []
    share, low, high, taken = estimate(ranks)
    # where more had to be taken off than is left, the similarity does not know these texts well enough to accuse anyone; words alone know least
    doubt = taken if material.encoder is not None else 2 * taken
    severity = "info" if share < doubt else severity_of(low, FLOOR, MANY)
    by = (
        material.model_name
        if material.has_pictures
        else f"{material.model_name} and BM25"
        if material.encoder is not None
        else "BM25 alone"
    )
    worst = rows[np.argsort(-ranks, kind="stable")]
    look = "" if material.encoder is not None else " A model tells more: add --model static."
    if severity == "info":
        what = f"no proof of shuffled positives: by {by}, {share:.1%} [{low:.1%}, {high:.1%}] are no nearer to their query than a random one."
        remedy = f"Nothing to do.{look}"
    else:
        what = f"about {share:.1%} [{low:.1%}, {high:.1%}] of the positives are no nearer to their query than a random one, by {by}."
        remedy = f"Look at the examples: were rows sorted or joined apart from each other? Join them again by their key.{look}"
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
            material.show(worst.tolist()) if severity != "info" else (),
        )
    ]

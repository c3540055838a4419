"""Hard negatives: those that are positives after all, those nearer than the positive, and those no nearer than chance."""

from __future__ import annotations

import numpy as np

from nearfar.auditing.material import Material, severity_of
from nearfar.data.near_duplicates import are_near
from nearfar.data.text import agree, counted, shorten
from nearfar.metrics import share_interval
from nearfar.types import Evidence, Finding

FLOOR, MANY = 0.002, 0.05
"""Shares of negatives known to be positives: a warning, and critical."""
TOO_HARD = 0.3
"""From this share on, negatives above their positive teach the opposite more often than not."""
TOO_EASY = 0.1
"""Of the way from a random document to the positive: nearer to random than this, a hard negative is none."""
SAMPLE = 20_000
SAME = 0.9
"""Of the word pairs of both texts: so near, a negative is the positive with a word changed."""


def planted(material: Material) -> np.ndarray:
    """Whether each hard negative (end to end) is a positive that the file names for its query, or nearly one: booleans [m].

    Nearly is `SAME` of their word pairs, of the two texts themselves: texts of one template are linked to each other by less.
    """
    wrong = np.zeros(len(material.negatives), bool)
    answers: dict[int, list[int]] = {}
    for query, document in sorted(material.known):
        answers.setdefault(query, []).append(document)
    places: list[int] = []
    right: list[int] = []
    for place, query in enumerate(material.queries.number[material.owners].tolist()):
        places += [place] * len(answers[query])
        right += answers[query]
    at, documents = np.array(places, np.int64), np.array(right, np.int64)
    held = material.negatives[at]
    wrong[at[held == documents]] = True
    # word pairs are compared only within one group of near copies
    close = (material.document_groups[held] == material.document_groups[documents]) & (held != documents)
    near = are_near(material.documents.distinct, held[close], documents[close], similarity=SAME)
    wrong[at[close][near]] = True
    return wrong


def check_negatives(material: Material) -> list[Finding]:
    """`planted_positives`, counted; with a model `negatives_above_positive` and `easy_negatives`, of at most `SAMPLE` of them."""
    if not len(material.negatives):
        return []
    return _planted(material) + (_by_model(material) if material.encoder is not None else [])


def _planted(material: Material) -> list[Finding]:
    wrong = np.flatnonzero(planted(material))
    if not len(wrong):
        return []
    share = share_interval(len(wrong), len(material.negatives))
    severity = severity_of(share.low, FLOOR, MANY)
    return [
        Finding(
            "planted_positives",
            "data",
            severity,
            f"{counted(len(wrong), 'hard negative')} of {len(material.negatives):,} ({share.mean:.1%} [{share.low:.1%}, {share.high:.1%}]) {agree(len(wrong), 'are')} right for "
            "the query elsewhere in the file, as a positive or nearly: training pushes right answers away.",
            len(wrong),
            len(material.negatives),
            share.mean,
            material.fix(),
            share.low,
            share.high,
            _shown(material, wrong),
        )
    ]


def _shown(material: Material, numbers: np.ndarray) -> tuple[Evidence, ...]:
    found = []
    for number in numbers[:3]:
        row = int(material.owners[number])
        text = material.documents.distinct[material.negatives[number]]
        found.append(Evidence(material.where[row], f"{shorten(material.pairs[row].query, 50)} -/-> {shorten(text, 70)}"))
    return tuple(found)


def _by_model(material: Material) -> list[Finding]:
    rng = np.random.default_rng(material.seed)
    # what is a known positive is named already
    numbers = np.flatnonzero(~planted(material))
    if len(numbers) > SAMPLE:
        numbers = np.sort(rng.choice(numbers, SAMPLE, replace=False))
    if not len(numbers):
        return []
    owners = material.owners[numbers]
    queries = material.query_rows[material.queries.number[owners]]
    rows = material.document_rows
    negative = (queries * rows[material.negatives[numbers]]).sum(axis=1)
    positive = (queries * rows[material.positives[owners]]).sum(axis=1)
    chance = (queries * rows[rng.integers(len(rows), size=len(numbers))]).sum(axis=1)
    above = share_interval(int((negative > positive).sum()), len(numbers))
    order = np.argsort(positive - negative, kind="stable")
    found = [
        Finding(
            "negatives_above_positive",
            "data",
            "warning" if above.low >= TOO_HARD else "info",
            f"{above.mean:.1%} [{above.low:.1%}, {above.high:.1%}] of the hard negatives are nearer to the query than its positive, by {material.model_name}: "
            "at most twice that share may be right answers that nobody judged.",
            int((negative > positive).sum()),
            len(numbers),
            above.mean,
            f"{material.command()} --model {material.model_name} --review shows such candidates and estimates how many are right answers",
            above.low,
            above.high,
            _shown(material, numbers[order]),
        )
    ]
    span = float(positive.mean() - chance.mean())
    way = float(negative.mean() - chance.mean()) / span if span > 0 else 1.0
    if way < TOO_EASY:
        easy = int((negative <= np.median(chance)).sum())
        found.append(
            Finding(
                "easy_negatives",
                "data",
                "warning",
                f"hard negatives are hardly nearer to the query than random documents are ({max(way, 0):.0%} of the way to the positive): they teach what the "
                "batch teaches anyway, at the price of one text each.",
                easy,
                len(numbers),
                easy / len(numbers),
                "Mine nearer ones, or drop the column of negatives: the other positives of a batch are random negatives for free.",
                examples=_shown(material, numbers[np.argsort(negative, kind="stable")]),
            )
        )
    return found

"""Pairs for a stage: hard negatives mined by its model, a teacher's scores, queries made from texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nearfar.errors import BadInput
from nearfar.mining import NegativeRule, mine
from nearfar.recipes.recipe import Bench
from nearfar.training.teachers import teacher_scores
from nearfar.types import Pair

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
LONGEST_TITLE = 30
"""Words of a made query, at most."""


def with_negatives(
    bench: Bench,
    pairs: Sequence[Pair],
    *,
    count: int,
    depth: int = 50,
    below_positive: float | None = 0.95,
    draw: bool = False,
    texts: Sequence[str] = (),
) -> list[Pair]:
    """The pairs with up to `count` hard negatives each: those they have, else what the model finds among all documents and `texts`.

    Of the `depth` nearest that may be negatives those above `below_positive` x the positive's score are passed over (None: none). The nearest are
    taken, or with `draw` any of them by chance (bench.seed). Pairs for which none is left get theirs from the source `random`, with no rule of
    scores, and the progress says how many. Raises `BadInput` where fewer than two pairs have any in the end.
    """
    if not pairs:
        return []
    rule = NegativeRule(
        count=count, depth=depth, below_positive=below_positive, sampling="random" if draw else "top", seed=bench.seed
    )
    mined = mine(pairs, encoder=bench.encoder, rule=rule, corpus=texts, progress=bench.progress).pairs
    lacking = [i for i, pair in enumerate(pairs) if not (pair.negatives or mined[i].negatives)]
    if lacking:
        any_ = replace(rule, below_positive=None)
        drawn = mine(pairs, encoder=None, rule=any_, corpus=texts, sources="random", progress=bench.progress).pairs
        for i in lacking:
            mined[i] = drawn[i]
        note = f"{len(lacking):,} of {len(pairs):,} pairs get negatives by chance: of the {depth} nearest documents none is far enough below the positive"
        bench.progress("mine", 0, 1, note=note)
    found = [_first(pair, count) if pair.negatives else mined[i] for i, pair in enumerate(pairs)]
    found = [pair for pair in found if pair.negatives]
    if len(found) < 2:
        raise BadInput(
            f"hard negatives: found for {len(found)} of {len(pairs):,} pairs. Give more documents, or negatives in the pairs."
        )
    return found


def _first(pair: Pair, count: int) -> Pair:
    """The pair with the first `count` of its own negatives."""
    return pair.with_negatives(
        pair.negatives[:count], teacher_scores=pair.teacher_scores[: count + 1], mined=pair.mined[:count]
    )


def with_teacher(bench: Bench, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the teacher's scores of their candidates, where they have none."""
    assert bench.teacher is not None
    lacking = [p for p in pairs if len(p.teacher_scores) != len(p.negatives) + 1]
    scores = teacher_scores(bench.teacher, lacking, bench.progress)
    stops = np.cumsum([0, *(1 + len(p.negatives) for p in lacking)])
    taught = iter(
        [replace(p, teacher_scores=tuple(scores[a:b].tolist())) for p, a, b in zip(lacking, stops, stops[1:], strict=False)]
    )
    return [next(taught) if len(p.teacher_scores) != len(p.negatives) + 1 else p for p in pairs]


def pairs_of_texts(texts: Sequence[str]) -> list[Pair]:
    """A query made of each text's first line or sentence, whose positive is the rest; texts of one sentence make none."""
    found: list[Pair] = []
    for text in dict.fromkeys(t.strip() for t in texts):
        first, _, rest = text.partition("\n")
        if not rest.strip() or len(first.split()) > LONGEST_TITLE:
            sentences = _SENTENCE.split(text, maxsplit=1)
            first, rest = sentences[0], sentences[1] if len(sentences) > 1 else ""
        first = " ".join(first.split()[:LONGEST_TITLE])
        if first and rest.strip():
            found.append(Pair(first, rest.strip()))
    return found

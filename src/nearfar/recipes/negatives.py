"""Pairs for a stage: hard negatives found by nearfar's own exact search, a teacher's scores, queries made from texts.

Negatives too near the positive are passed over: they may be positives nobody marked (Moreira 2024, arXiv 2407.15831, section 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nearfar.data.sampling import PairTable
from nearfar.data.text import normalize
from nearfar.embedding import embed
from nearfar.errors import BadInput
from nearfar.recipes.recipe import Bench
from nearfar.similarity import topk
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
    """The pairs with up to `count` hard negatives each: those they have, else what the model finds among all positives and `texts`.

    Of the `depth` nearest documents those are passed over that are known positives of the query or its group, equal the query, or are
    nearer than `below_positive` x the positive (None: none). The nearest are taken, or with `draw` any of them by chance (bench.seed).
    A pair for which none is left gets as many of all other documents by chance, and the progress says how many such there were.
    """
    if not pairs:
        return []
    table = PairTable.build([replace(p, negatives=(), source=None) for p in pairs])
    number = {text: i for i, text in enumerate(table.documents)}
    documents = list(number) + [text for text in dict.fromkeys(texts) if text not in number]
    queries = embed(bench.encoder, table.queries, role="query", progress=bench.progress, stage="mine queries")
    rows = embed(bench.encoder, documents, progress=bench.progress, stage="mine documents")
    hits = topk(queries, rows, min(depth, len(documents)))
    items = [normalize(text) for text in documents]
    known: dict[int, set[str]] = {}
    for pair, group in zip(pairs, table.group_of.tolist(), strict=True):
        known.setdefault(group, set()).update((normalize(pair.positive), normalize(pair.query)))
    rng = np.random.default_rng([bench.seed, 7])
    found: list[Pair] = []
    by_chance = 0
    for i, pair in enumerate(pairs):
        query = int(table.query_of[i])
        if pair.negatives:
            found.append(replace(pair, negatives=pair.negatives[:count], teacher_scores=pair.teacher_scores[: count + 1]))
            continue
        positive = float(queries[query] @ rows[table.positive_of[i]])
        limit = np.inf if below_positive is None or positive <= 0 else below_positive * positive
        own = known[int(table.group_of[i])]
        near = [
            documents[d]
            for d, score in zip(hits.ids[query].tolist(), hits.scores[query].tolist(), strict=True)
            if d >= 0 and score <= limit and items[d] not in own
        ]
        chosen = [near[j] for j in sorted(rng.permutation(len(near))[:count])] if draw else near[:count]
        if not chosen:
            by_chance += 1
            drawn = rng.permutation(len(documents))[: 10 * count + len(own)]
            chosen = [documents[d] for d in drawn.tolist() if items[d] not in own][:count]
        if chosen:
            found.append(replace(pair, negatives=tuple(chosen), teacher_scores=()))
    if by_chance:
        note = f"{by_chance:,} of {len(pairs):,} pairs get negatives by chance: of the {depth} nearest documents none is far enough below the positive"
        bench.progress("mine", 0, 1, note=note)
    if len(found) < 2:
        raise BadInput(
            f"hard negatives: found for {len(found)} of {len(pairs):,} pairs. Give more documents, or negatives in the pairs."
        )
    return found


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

"""Who answers what: passages that answer many queries, queries with several answers, texts that are their own answer."""

from __future__ import annotations

import numpy as np

from nearfar.auditing.material import EXAMPLES, Material
from nearfar.data.text import agree, counted, normalize, shorten
from nearfar.types import Evidence, Finding, Picture

MANY = 10
"""A passage that answers at least so many different queries is called a hub."""
LABELS = 0.9
"""Where so large a share of the pairs is of hubs, the positives are labels."""
HUBS_MATTER = 0.25
"""From this share of the pairs on, hubs decide what is learned."""
SAME_MATTERS = 0.01
"""From this share on, pairs that say the same twice weigh on training."""


def same_texts(material: Material) -> list[int]:
    """The pairs whose query is their positive, after normalization. A picture beside itself is none: its two views differ."""
    return [
        row
        for row, pair in enumerate(material.pairs)
        if not isinstance(pair.query, Picture) and normalize(pair.query) == normalize(pair.positive)
    ]


def check_answers(material: Material) -> list[Finding]:
    """`hub_positives`, `several_answers` and `query_is_positive`, all counted."""
    return _hubs(material) + _several(material) + _same(material)


def _hubs(material: Material) -> list[Finding]:
    pairs = np.unique(np.stack([material.positives, material.queries.number]), axis=1)
    answers = np.bincount(pairs[0], minlength=len(material.documents.distinct))
    hubs = np.flatnonzero(answers >= MANY)
    if not len(hubs):
        return []
    rows = np.flatnonzero(np.isin(material.positives, hubs))
    share = len(rows) / len(material)
    order = hubs[np.argsort(-answers[hubs], kind="stable")][:EXAMPLES]
    examples = tuple(
        Evidence(
            material.where[int(np.flatnonzero(material.positives == hub)[0])],
            f"answers {answers[hub]:,} queries: {shorten(material.documents.distinct[hub], 80)}",
        )
        for hub in order
    )
    labels = share >= LABELS
    remedy = "Where the passage says nothing of its own about a query, drop the pair; training keeps the same passage out of its own negatives."
    if labels:
        remedy = (
            "The positives look like labels. That is sound: training keeps a label out of its own negatives. To tell the texts of a label from those of "
            "others, too, pair two texts of one label each time, with the label as `group`."
        )
    return [
        Finding(
            "hub_positives",
            "data",
            "warning" if share >= HUBS_MATTER and not labels else "info",
            f"{counted(len(hubs), 'passage')} with {MANY} different queries or more each, {counted(len(rows), 'pair')} ({share:.1%}) in all.",
            len(rows),
            len(material),
            share,
            remedy,
            examples=examples,
        )
    ]


def _several(material: Material) -> list[Finding]:
    """Queries whose positives are not even near copies of each other."""
    groups = material.document_groups[material.positives]
    pairs = np.unique(np.stack([material.queries.number, groups]), axis=1)
    answers = np.bincount(pairs[0], minlength=len(material.queries.distinct))
    many = np.flatnonzero(answers > 1)
    if not len(many):
        return []
    order = many[np.argsort(-answers[many], kind="stable")][:EXAMPLES]
    examples = []
    for query in order:
        mine = np.flatnonzero(material.queries.number == query)
        texts = " / ".join(shorten(material.pairs[row].positive, 40) for row in mine[:2])
        examples.append(
            Evidence(
                material.where[int(mine[0])],
                f"{answers[query]:,} answers to {shorten(material.queries.distinct[query], 50)!r}: {texts}",
            )
        )
    share = len(many) / len(answers)
    return [
        Finding(
            "several_answers",
            "data",
            "info",
            f"{counted(len(many), 'query')} of {len(answers):,} ({share:.1%}) {agree(len(many), 'have')} several positives that are no copies of each other.",
            len(many),
            len(answers),
            share,
            "Training never makes one of them a negative of the query. Where they contradict each other, keep the right one.",
            examples=tuple(examples),
        )
    ]


def _same(material: Material) -> list[Finding]:
    rows = same_texts(material)
    if not rows:
        return []
    share = len(rows) / len(material)
    return [
        Finding(
            "query_is_positive",
            "data",
            "warning" if share >= SAME_MATTERS else "info",
            f"{counted(len(rows), 'pair')} of {len(material):,} ({share:.1%}) {agree(len(rows), 'have')} the same text on both sides: there is nothing to learn from that.",
            len(rows),
            len(material),
            share,
            material.fix(),
            examples=material.show(rows, positive=False),
        )
    ]

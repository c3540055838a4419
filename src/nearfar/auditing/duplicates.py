"""Duplicates: the same pair again, and queries or documents that are nearly the same (Jaccard of word pairs at least 0.8)."""

from __future__ import annotations

import numpy as np

from nearfar.auditing.material import EXAMPLES, Material
from nearfar.data.text import agree, counted, shorten
from nearfar.types import Evidence, Finding

COPIES_MATTER = 0.01
"""From this share on, copies of pairs weigh on training."""
NEAR_MATTERS = 0.5
"""Most texts of a file are near copies of others: from this share on it says so loudly."""


def copied_pairs(material: Material) -> list[int]:
    """The pairs whose texts (normalized), negatives and score have all been there before, in order."""
    seen: set[tuple[int, int, tuple[str, ...], float | None]] = set()
    found: list[int] = []
    both = zip(material.queries.number.tolist(), material.positives.tolist(), material.pairs, strict=True)
    for row, (query, document, pair) in enumerate(both):
        key = (query, document, pair.negatives, pair.score)
        if key in seen:
            found.append(row)
        seen.add(key)
    return found


def check_duplicates(material: Material) -> list[Finding]:
    """`duplicate_pairs` counted; `near_queries` and `near_documents` counted over distinct texts."""
    found: list[Finding] = []
    rows = copied_pairs(material)
    if rows:
        share = len(rows) / len(material)
        found.append(
            Finding(
                "duplicate_pairs",
                "data",
                "warning" if share >= COPIES_MATTER else "info",
                f"{counted(len(rows), 'pair')} of {len(material):,} ({share:.1%}) {agree(len(rows), 'were')} there before, word for word: such pairs count more than once.",
                len(rows),
                len(material),
                share,
                material.fix(),
                examples=material.show(rows),
            )
        )
    for code, what, texts, groups, numbers in (
        ("near_queries", "query", material.queries, material.query_groups, material.queries.number),
        ("near_documents", "document", material.documents, material.document_groups, material.positives),
    ):
        found += _near(material, code, what, texts.distinct, groups, numbers)
    return found


def _near(
    material: Material, code: str, what: str, distinct: list[str], groups: np.ndarray, numbers: np.ndarray
) -> list[Finding]:
    sizes = np.bincount(groups, minlength=len(groups))
    copies = len(groups) - int((sizes > 0).sum())
    if not copies:
        return []
    share = copies / len(groups)
    first = {int(number): row for row, number in reversed(list(enumerate(numbers.tolist())))}
    largest = [int(group) for group in np.argsort(-sizes, kind="stable")[:EXAMPLES] if sizes[group] > 1]
    examples = tuple(
        Evidence(
            material.where[first.get(group, 0)] if group in first else material.name,
            f"{sizes[group]:,} near copies: {shorten(distinct[group], 90)}",
        )
        for group in largest
    )
    return [
        Finding(
            code,
            "data",
            "warning" if share >= NEAR_MATTERS else "info",
            f"{counted(copies, f'distinct {what}')} of {len(groups):,} ({share:.1%}) nearly {agree(copies, 'repeat')} another (80 % of their word pairs or more).",
            copies,
            len(groups),
            share,
            "Near copies of one thing are not negatives of each other: give their pairs one `group`. Copies that say nothing new can go.",
            examples=examples,
        )
    ]

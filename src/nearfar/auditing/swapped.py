"""Swapped columns: rows whose query reads like the file's positives and whose positive like its queries.

Decisions. A linear rule tells the two columns apart by how texts are built (length, sentences, question marks), not by what they are about. Of a pair
it gives d, how much more like a query the query is than the positive; exchanging the two texts changes the sign of d and nothing else, so
swapped rows lie around minus the median of d. Where texts of both columns are built alike, d lies around zero, no swap can be seen, and none is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nearfar.auditing.material import Material, severity_of
from nearfar.data.text import agree, counted
from nearfar.metrics import share_interval
from nearfar.types import Finding

_ASKS = re.compile(r"\?\s*$")
_BEGINS = re.compile(
    r"^\W*(what|who|whom|whose|how|why|when|where|which|is|are|was|can|could|do|does|did|should|will|would|has|have)\b",
    re.IGNORECASE,
)
_END = re.compile(r"[.!。]\W*$")
_STOPS = re.compile(r"[.!?。？！](\s|$)")

TELLING = 0.75
"""So large a share of the rows must be told the same way round, before the rest is called swapped."""
LEAST = 50
"""Fewer pairs than this say nothing about what a column looks like."""
FLOOR = 0.002
"""A lower bound of this share is more than texts built unusually make up in real files (`docs/audit.md`)."""
MANY = 0.1
"""From this lower bound on, what is trained is upside down in good part."""


def _shape(texts: Sequence[str]) -> Float[np.ndarray, "n f"]:
    """How texts are built: features [n, 6]."""
    return np.array(
        [
            (
                np.log1p(len(words)),
                np.log1p(len(_STOPS.findall(text))),
                float(bool(_ASKS.search(text))),
                float(bool(_BEGINS.match(text))),
                float(bool(_END.search(text))),
                float(text[:1].isupper()),
            )
            for text in texts
            for words in (text.split(),)
        ],
        np.float64,
    ).reshape(len(texts), 6)


def direction(material: Material) -> Float[np.ndarray, " n"]:
    """How much more like a query than like a positive each pair's query is than its positive, in units of the median pair."""
    difference = _shape([p.query for p in material.pairs]) - _shape([p.positive for p in material.pairs])
    # the rule that separates differences from their own mirror images: least squares to 1, small ridge
    gram = difference.T @ difference / len(difference) + 1e-3 * np.eye(difference.shape[1])
    rule = np.linalg.solve(gram, difference.mean(axis=0))
    d = difference @ rule
    scale = float(np.median(np.abs(d)))
    return d / scale if scale > 0 else d


def swapped_rows(material: Material) -> list[int]:
    """The pairs that are clearly the other way round than most; none where the columns cannot be told apart."""
    if len(material) < LEAST or material.has_pictures:
        return []
    d = direction(material)
    if (d > 0).mean() < TELLING:
        return []
    rows = np.flatnonzero(d < -0.25)
    unclear = int((np.abs(d) <= 0.25).sum())
    # unclear rows between the two heaps: then the few below zero are the tail of the many above
    return rows.tolist() if 2 * unclear <= len(rows) else []


def check_swapped(material: Material) -> list[Finding]:
    """`swapped_columns`: the whole file, by the questions and lengths that `read_pairs` looks at, or the share of single rows, estimated."""
    from nearfar.data.pairs import looks_swapped

    if not material.has_pictures and looks_swapped(material.pairs):
        n = len(material)
        return [
            Finding(
                "swapped_columns",
                "data",
                "critical",
                "the columns look swapped: long texts that do not ask are queries, short questions are positives.",
                n,
                n,
                1.0,
                f"nearfar train {material.name} -o RUN --columns query=POSITIVE,positive=QUERY (the names of the file's columns)",
                examples=material.show(range(3)),
            )
        ]
    rows = swapped_rows(material)
    if not rows:
        return []
    share = share_interval(len(rows), len(material))
    severity = severity_of(share.low, FLOOR, MANY)
    return [
        Finding(
            "swapped_columns",
            "data",
            severity,
            f"about {share.mean:.1%} [{share.low:.1%}, {share.high:.1%}] of the pairs ({counted(len(rows), 'row')}) {agree(len(rows), 'look')} the other way round: "
            "the query is built as positives are here, and the positive as queries.",
            len(rows),
            len(material),
            share.mean,
            material.fix() + " leaves them out; exchange the two columns of these rows to keep them",
            share.low,
            share.high,
            material.show(rows),
        )
    ]

"""What a mining came to: asked, found, dropped by which rule with an example of each, and how far below the positives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nearfar.data.text import agree, counted
from nearfar.mining.rule import NegativeRule

MEANINGS = {
    "positive": "known positives of the query, or of the same text",
    "query": "the query's own text",
    "group": "of the query's group",
    "skip_top": "among the first ranks, which are passed over",
    "below_positive": "too near the positive (share of its score)",
    "margin": "too near the positive (difference)",
    "max_score": "above the highest score",
    "min_score": "below the lowest score",
    "teacher": "likely positives, by the teacher",
    "taken": "taken from another source, or there before",
}
"""What each reason means, in the order in which rules are asked."""
QUANTILES = (5, 25, 50, 75, 95)


class Example(NamedTuple):
    """One document that was dropped: for which query, and by what scores (None where no model said one)."""

    query: str
    document: str
    source: str
    score: float | None
    positive_score: float | None


@dataclass(frozen=True)
class Summary:
    """The figures of one mining. Counts of what was dropped are over the places of all lists (`depth` of each source)."""

    pairs: int
    queries: int
    documents: int
    """Distinct texts that could be found."""
    rule: NegativeRule
    asked: Mapping[str, int]
    """By source, over all pairs."""
    found: Mapping[str, int]
    kept: int
    """Negatives that were there before and stay."""
    without: int
    """Pairs that have no negative now."""
    full: int
    """Pairs for which as many were found as asked."""
    dropped: Mapping[str, int]
    """By reason (`MEANINGS`), those that dropped something."""
    examples: Mapping[str, Example]
    margins: Sequence[float]
    """The margins (positive's score less the negative's) of what was found, at 5, 25, 50, 75 and 95 %; empty without a model."""
    nearer: int
    """Found negatives that are nearer than their positive."""
    first: Example | None
    """The first that was found."""
    from_cache: Sequence[str]
    """The searches that were not run, because the cache had what they found."""
    seconds: float
    advice: list[str] = field(default_factory=list)

    @property
    def total(self) -> tuple[int, int]:
        """(asked, found) over all sources."""
        return sum(self.asked.values()), sum(self.found.values())

    def to_json(self) -> dict[str, Any]:
        """All of it, by name."""
        asked, found = self.total
        return {
            "pairs": self.pairs,
            "queries": self.queries,
            "documents": self.documents,
            "asked": asked,
            "found": found,
            "sources": {name: {"asked": self.asked[name], "found": self.found[name]} for name in self.asked},
            "kept": self.kept,
            "pairs_without": self.without,
            "pairs_full": self.full,
            "dropped": dict(self.dropped),
            "examples": {name: example._asdict() for name, example in self.examples.items()},
            "margins": dict(zip(map(str, QUANTILES), self.margins, strict=False)),
            "nearer_than_positive": self.nearer,
            "first": None if self.first is None else self.first._asdict(),
            "rule": self.rule.to_json(),
            "from_cache": list(self.from_cache),
            "seconds": round(self.seconds, 3),
            "advice": self.advice,
        }


class Tally:
    """Counts while pairs are gone through."""

    def __init__(self, sources: Sequence[str]) -> None:
        self.asked, self.found = dict.fromkeys(sources, 0), dict.fromkeys(sources, 0)
        self.dropped = dict.fromkeys(MEANINGS, 0)
        self.examples: dict[str, Example] = {}
        self.margins: list[np.ndarray] = []
        self.first: Example | None = None
        self.kept = self.without = self.full = 0

    def drop(self, reason: str, count: int) -> bool:
        """Count what a reason dropped; whether an example of it is still wanted."""
        self.dropped[reason] += count
        return count > 0 and reason not in self.examples

    def close(self, **facts: Any) -> Summary:
        """The summary of all that was counted."""
        margins = np.concatenate([np.zeros(0, np.float32), *self.margins])
        margins = margins[np.isfinite(margins)]
        made = Summary(
            asked=self.asked,
            found=self.found,
            kept=self.kept,
            without=self.without,
            full=self.full,
            dropped={name: count for name, count in self.dropped.items() if count},
            examples=self.examples,
            first=self.first,
            margins=[round(float(v), 6) for v in np.percentile(margins, QUANTILES)] if len(margins) else [],
            nearer=int((margins < 0).sum()),
            **facts,
        )
        return _advised(made)


def _advised(summary: Summary) -> Summary:
    """The summary with what to do where little was found or much is suspicious."""
    asked, found = summary.total
    rule, advice = summary.rule, summary.advice
    if found < 0.9 * asked:
        missing = f"{asked - found:,} of {counted(asked, 'negative')} asked for {agree(asked - found, 'were')} not found"
        likely = max(("below_positive", "margin", "max_score", "min_score", "teacher"), key=lambda n: summary.dropped.get(n, 0))
        option = "teacher-below" if likely == "teacher" else likely.replace("_", "-")
        small = summary.documents <= rule.depth + 1
        deeper = "give more documents (--corpus FILE)" if small else f"look deeper (--depth {2 * rule.depth})"
        if summary.dropped.get(likely, 0) > (asked - found) / 2:
            advice.append(
                f"{missing}, most for the rule {likely}. Look at its example: if that is a true negative, loosen --{option}; if it "
                f"is a positive nobody marked, the rule does its work: {deeper}."
            )
        elif small:
            advice.append(
                f"{missing}: there {agree(summary.documents, 'are')} {counted(summary.documents, 'document')} in all. Give more (--corpus FILE)."
            )
        else:
            advice.append(
                f"{missing}: the lists hold no more. Look deeper (--depth {2 * rule.depth}) or give more documents (--corpus FILE)."
            )
    if found and summary.first is not None and summary.first.score is None:
        advice.append(
            "without a model there are no scores: no negative was dropped as too near the positive, and some may be right answers. "
            "Name a model to judge them (--model static --sources bm25)."
        )
    if found and summary.nearer > 0.05 * found:
        advice.append(
            f"{summary.nearer:,} of {counted(found, 'negative')} {agree(summary.nearer, 'are')} nearer to a query than its positive: some may be positives nobody marked. "
            "Set --below-positive 0.95, or ask a teacher (--teacher MODEL)."
        )
    return summary

"""Near duplicates: texts whose sets of word pairs overlap by a given Jaccard similarity, found by prefix filtering, exactly.

Prefix filtering: Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity Search". With shingles in one fixed order (rarest
first), two sets of similarity >= t share a shingle among the first |x| - ceil(t |x|) + 1 of each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

_WORD = re.compile(r"\w+")


def shingles(text: str) -> frozenset[str]:
    """The pairs of neighbouring words of a text, lower case; the word itself where there is only one."""
    words = _WORD.findall(text.lower())
    return frozenset(map(" ".join, pairwise(words))) if len(words) > 1 else frozenset(words)


def near_duplicates(texts: Sequence[str], against: Sequence[str], *, similarity: float = 0.8) -> list[bool]:
    """For each of `texts`, whether one of `against` is equal in words or at least `similarity` (Jaccard, of word pairs)."""
    known = [shingles(text) for text in against]
    asked = [shingles(text) for text in texts]
    frequency = Counter(s for sets in (known, asked) for found in sets for s in found)

    def prefix(found: frozenset[str]) -> list[str]:
        ordered = sorted(found, key=lambda s: (frequency[s], s))
        return ordered[: len(found) - math.ceil(similarity * len(found)) + 1]

    places: dict[str, list[int]] = {}
    for number, found in enumerate(known):
        for shingle in prefix(found):
            places.setdefault(shingle, []).append(number)

    def is_near(found: frozenset[str]) -> bool:
        candidates = {number for shingle in prefix(found) for number in places.get(shingle, ())}
        return any(len(found & known[n]) >= similarity * len(found | known[n]) for n in candidates)

    return [bool(found) and is_near(found) for found in asked]

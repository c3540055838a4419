"""Which of the documents that a search found become hard negatives: one value, and one function of scores.

The relative margin is TopK-PercPos, the absolute one TopK-MarginPos (Moreira 2024, "NV-Retriever", arXiv 2407.15831, section 3.1). Drawing
without replacement by score is the Gumbel trick over all candidates (Kool 2019, arXiv 1903.06059).

Decisions. A rank is a place in what the search found, after what can never be a negative was left out and before any score is looked at: a
rule that drops more does not move ranks. Every draw is a function of (seed, query, document), so neither the order of pairs nor
other documents change it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from nearfar.data.text import normalize
from nearfar.errors import BadConfig

Sampling = Literal["top", "random", "softmax"]
"""How negatives are taken among those that may be: the nearest, any alike, or the nearer the more likely."""


@dataclass(frozen=True)
class NegativeRule:
    """Which found documents may be negatives of a pair, how many are taken, and how. None switches a rule off.

    A known positive of the query, a document of the same text (normalized) as one, the query itself, and what belongs to the query's group
    are never negatives, whatever the rule says.
    """

    count: int = 5
    """Negatives for each pair; fewer where fewer pass. Nothing fills them up."""
    depth: int = 100
    """How deep each search looks: the last rank that may be taken."""
    skip_top: int = 0
    """So many of the first ranks are passed over, as most likely positives that nobody marked."""
    below_positive: float | None = 0.95
    """Dropped above this share of the positive's score: s > p - (1 - share) |p|, which is share * p for a positive score p."""
    margin: float | None = None
    """Dropped above the positive's score less this much: s > p - margin."""
    max_score: float | None = None
    """Dropped above this score."""
    min_score: float | None = None
    """Dropped below this score: too easy."""
    teacher_below: float = 0.95
    """With a teacher: `below_positive` by the teacher's scores."""
    sampling: Sampling = "top"
    """top: the first ranks; random: any that pass, alike; softmax: in proportion to exp(score / temperature), without replacement."""
    temperature: float = 0.05
    """Of sampling=softmax."""
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        """Raise `BadConfig` for a value that cannot be."""
        for name, holds, wanted in (
            ("count", self.count >= 1, "1 or more"),
            ("depth", self.depth >= 1, "1 or more"),
            ("skip_top", 0 <= self.skip_top < self.depth, f"0 to below the depth of {self.depth}"),
            ("below_positive", self.below_positive is None or 0 <= self.below_positive <= 1, "a share from 0 to 1"),
            ("teacher_below", 0 <= self.teacher_below <= 1, "a share from 0 to 1"),
            ("margin", self.margin is None or math.isfinite(self.margin), "a number"),
            ("max_score", self.max_score is None or math.isfinite(self.max_score), "a number"),
            ("min_score", self.min_score is None or math.isfinite(self.min_score), "a number"),
            ("sampling", self.sampling in get_args(Sampling), f"one of {', '.join(get_args(Sampling))}"),
            ("temperature", 1e-6 <= self.temperature < math.inf, "a number of 1e-6 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not holds:
                raise BadConfig(f"{name}={getattr(self, name)}: expected {wanted}.")
        if self.max_score is not None and self.min_score is not None and self.min_score > self.max_score:
            raise BadConfig(f"min_score={self.min_score}: it is above max_score={self.max_score}, so nothing could pass.")
        if self.count > self.depth - self.skip_top:
            raise BadConfig(
                f"count={self.count}: ranks {self.skip_top + 1} to {self.depth} hold {self.depth - self.skip_top} documents. Look deeper "
                f"(depth={self.skip_top + 10 * self.count}), or ask for fewer."
            )

    @property
    def compares(self) -> list[str]:
        """The rules in force that compare a model's scores."""
        own = ["below_positive", "margin", "max_score", "min_score"]
        return [name for name in own if getattr(self, name) is not None] + (["softmax"] if self.sampling == "softmax" else [])

    def to_json(self) -> dict[str, Any]:
        """All values by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


PASSED, ABSENT = 0, 1
REASONS = ("passed", "absent", "skip_top", "below_positive", "margin", "max_score", "min_score", "taken")
"""Why a place of a list is not taken, by code: the first rule that drops it is named. `absent`: nothing was found there."""


class Chosen(NamedTuple):
    """What a rule chose of p lists of k places. `places` [p, min(count, k)] int64 in the order chosen, -1 beyond the last; `codes` [p, k]
    uint8 into `REASONS` (`teacher` apart: `refused` [p, k] marks what the teacher did not let pass)."""

    places: np.ndarray
    codes: np.ndarray
    refused: np.ndarray


Allows = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Asks a teacher: (rows [m], places [m]) -> whether each may be a negative, bool [m]."""


def limit(positive: Float[np.ndarray, " p"], share: float) -> Float[np.ndarray, " p"]:
    """The highest score that stays below `share` of the positive's: share * p, and as far below p where p is not above zero."""
    return positive - np.float32(1 - share) * np.abs(positive)


def judge(
    scores: Float[np.ndarray, "p k"],
    positives: Float[np.ndarray, " p"],
    present: Bool[np.ndarray, "p k"],
    rule: NegativeRule,
) -> np.ndarray:
    """Why each place may not be a negative, [p, k] uint8 into `REASONS`; place j of a list is rank j + 1."""
    codes = np.zeros(scores.shape, dtype=np.uint8)
    ranks = np.arange(1, scores.shape[1] + 1)
    drops: list[tuple[str, Any]] = [("skip_top", (ranks <= rule.skip_top)[None, :])]
    with np.errstate(over="ignore"):  # a limit beyond float32 is infinite: above or below every score
        margin, most, least = (np.float32(value or 0) for value in (rule.margin, rule.max_score, rule.min_score))
    if rule.below_positive is not None:
        drops.append(("below_positive", scores > limit(positives, rule.below_positive)[:, None]))
    if rule.margin is not None:
        drops.append(("margin", scores > (positives - margin)[:, None]))
    if rule.max_score is not None:
        drops.append(("max_score", scores > most))
    if rule.min_score is not None:
        drops.append(("min_score", scores < least))
    codes[~present | (ranks > rule.depth)[None, :]] = ABSENT
    for name, mask in drops:
        codes[(codes == PASSED) & mask] = REASONS.index(name)
    return codes


def choose(
    scores: Float[np.ndarray, "p k"],
    positives: Float[np.ndarray, " p"],
    present: Bool[np.ndarray, "p k"],
    rule: NegativeRule,
    *,
    counts: Int[np.ndarray, " p"] | None = None,
    draws: UInt64[np.ndarray, "p k"] | None = None,
    taken: Bool[np.ndarray, "p k"] | None = None,
    allows: Allows | None = None,
) -> Chosen:
    """The negatives of p pairs among k found documents each, best rank first.

    `scores` are similarities to the pair's query, `positives` the positive's own; `present` says where something was found. `counts` are how
    many are wanted (default: the rule's), `draws` numbers from `draw_numbers` (needed unless sampling is top), `taken` what another search
    already gave. `allows` is asked in the order in which documents would be taken, and never for more than are needed: the result is that
    of asking for all. Rules, order and ranks are those of `NegativeRule`.
    """
    codes = judge(scores, positives, present, rule)
    if taken is not None:
        codes[(codes == PASSED) & taken] = REASONS.index("taken")
    order = np.argsort(_turns(scores, codes == PASSED, rule, draws), axis=1, kind="stable")  # [p, k], who comes first
    passing = (codes == PASSED).sum(axis=1)
    wanted = np.full(len(scores), rule.count) if counts is None else counts
    width = min(max(rule.count, int(wanted.max(initial=0))), scores.shape[1])
    places = np.full((len(scores), width), -1, dtype=np.int64)
    refused = np.zeros(scores.shape, dtype=bool)
    found, turn = np.zeros(len(scores), dtype=np.int64), np.zeros(len(scores), dtype=np.int64)
    while True:
        lacking = np.flatnonzero((found < wanted) & (turn < passing))
        if not len(lacking):
            return Chosen(places, codes, refused)
        asked = np.minimum(wanted - found, passing - turn)[lacking]
        rows = np.repeat(lacking, asked)
        step = np.arange(len(rows)) - np.repeat(np.cumsum(asked) - asked, asked)  # 0, 1, ... within each row
        at = order[rows, turn[rows] + step]
        may = np.ones(len(rows), dtype=bool) if allows is None else allows(rows, at)
        refused[rows[~may], at[~may]] = True
        before = np.cumsum(may) - may
        slot = found[rows] + before - before[np.searchsorted(rows, rows)]
        places[rows[may], slot[may]] = at[may]
        found += np.bincount(rows[may], minlength=len(scores))
        turn[lacking] += asked


def _turns(scores: np.ndarray, passed: np.ndarray, rule: NegativeRule, draws: np.ndarray | None) -> np.ndarray:
    """Smaller comes first, [p, k]; what did not pass comes last."""
    if rule.sampling == "top":
        turns = np.broadcast_to(np.arange(scores.shape[1], dtype=np.float64), scores.shape)
    else:
        assert draws is not None
        uniform = (draws.astype(np.float64) + 0.5) / 2.0**64  # in (0, 1), but for rounding at the top
        uniform = np.minimum(uniform, np.nextafter(1.0, 0.0))
        turns = uniform if rule.sampling == "random" else np.log(-np.log(uniform)) - scores / rule.temperature
    return np.where(passed, turns, np.inf)


def text_numbers(texts: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """A number for each text, the same for texts that are the same item: what draws are made from, wherever the text stands."""
    whole = b"".join(hashlib.blake2b(normalize(text).encode(errors="surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(whole, dtype="<u8").astype(np.uint64)


def draw_numbers(
    seed: int, queries: UInt64[np.ndarray, " p"], documents: UInt64[np.ndarray, "p k"]
) -> UInt64[np.ndarray, "p k"]:
    """64 random bits for each (seed, query, document): the finalizer of splitmix64 (Steele 2014), once for each."""
    own = _mixed(queries ^ _mixed(np.array([seed], dtype=np.uint64)))
    return _mixed(documents ^ own[:, None])


def _mixed(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

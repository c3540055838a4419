"""Metrics of ranked documents against graded judgements, one number per query, as trec_eval computes them.

nDCG is Järvelin & Kekäläinen 2002 (doi 10.1145/582415.582418) with the linear gain of trec_eval and pytrec_eval (Van Gysel & de
Rijke 2018, arXiv 1805.01597). The ranking is the order given: who has scores and ties settles them first (`order_by_score`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from nearfar.errors import BadConfig, BadInput, Mismatch

Gain = Literal["linear", "exponential"]
"""What a document of grade g is worth in nDCG: g itself (trec_eval), or 2^g - 1 (Burges 2005). Other metrics do not use it."""

Id = TypeVar("Id", bound=Hashable)


class Metric(NamedTuple):
    """A metric and its cutoff: `ndcg@10` is `Metric("ndcg", 10)`."""

    kind: str
    k: int

    @property
    def name(self) -> str:
        """The canonical name, by which results are filed: `ndcg@10`."""
        return f"{self.kind}@{self.k}"


class _Judged(NamedTuple):
    """Rankings turned into numbers, cut at the deepest cutoff asked for."""

    gains: Float[np.ndarray, "q depth"]
    """What each ranked document is worth, 0 for those not relevant, not judged, or not there."""
    ideal: Float[np.ndarray, "q depth"]
    """The gains of the best possible ranking."""
    relevant: Bool[np.ndarray, "q depth"]
    total: Int[np.ndarray, " q"]
    """How many documents are relevant to each query, found or not: at least 1."""


def parse_metric(name: str) -> Metric:
    """Read a name like `ndcg@10` (any case). Raises `BadConfig` naming the nearest metrics for anything else."""
    match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,5})", name.strip().lower())
    if match and match[1] in _FORMULAS:
        return Metric(match[1], int(match[2]))
    letters = "".join(re.findall(r"[a-z]+", name.lower()))
    cutoff = next((digits for digits in re.findall(r"[0-9]+", name) if int(digits) > 0), "10")
    near = [f"{kind}@{cutoff}" for kind in get_close_matches(letters, _FORMULAS, n=2, cutoff=0.4)]
    known = ", ".join(f"{kind}@k" for kind in _FORMULAS)
    raise BadConfig(
        f"metric {name!r} is unknown."
        + (f" Nearest: {', '.join(near)}." if near else "")
        + f" Metrics are {known}, for k >= 1."
    )


def label(metric: str) -> str:
    """How a metric is written for people: `nDCG@10` for `ndcg@10`."""
    kind, k = parse_metric(metric)
    return f"{_LABELS[kind]}@{k}"


def order_by_score(scores: Mapping[str, float]) -> list[str]:
    """Document ids from the largest score to the smallest, equal scores by *descending* id: trec_eval's rule for ties.

    The ranking thus depends on ids and scores alone, never on the order of a file. Raises `BadInput` for a score that is NaN.
    """
    bad = next((key for key, score in scores.items() if score != score), None)
    if bad is not None:
        raise BadInput(
            f"the score of document {bad!r} is NaN, which has no place in a ranking. Drop the document or mend its score."
        )
    return sorted(sorted(scores, reverse=True), key=lambda key: -scores[key])


def score_run(
    ranked: Sequence[Sequence[Id]],
    judgements: Sequence[Mapping[Id, int]],
    metrics: Iterable[str],
    *,
    gain: Gain = "linear",
) -> dict[str, Float[np.ndarray, " q"]]:
    """Score q rankings (best first) against their judgements: name -> one number in 0..1 per query, in the order given.

    A grade above 0 is relevant; other and missing grades count as not relevant. For each query, over the first k documents:

    - `ndcg@k`: sum of gain / log2(rank + 1), divided by the same sum of the best possible ranking; `gain` as in `Gain`.
    - `recall@k`: relevant ones, divided by all relevant ones. `precision@k`: divided by k, however short the ranking is.
    - `mrr@k`: 1 / rank of the first relevant one, else 0. `success@k`: 1 where there is any, else 0.
    - `map@k`: precision at the rank of each relevant one, added up, divided by all relevant ones (trec_eval's `map_cut`).

    An empty ranking scores 0 (trec_eval would leave the query out). A query without a relevant document has no score: it is
    for the caller to leave out and count, so it raises `BadInput`, as does a document ranked twice. Raises `BadConfig` for an
    unknown metric or gain, `Mismatch` where the two sequences differ in length. Time and memory O(q max k).
    """
    parsed = [parse_metric(name) for name in metrics]
    if gain not in get_args(Gain):
        raise BadConfig(f"gain: expected {' or '.join(get_args(Gain))}, found {gain!r}.")
    if len(ranked) != len(judgements):
        raise Mismatch(
            f"{len(ranked):,} rankings and {len(judgements):,} sets of judgements: there must be one for each query."
        )
    judged = _judge(ranked, judgements, max((metric.k for metric in parsed), default=1), gain)
    return {metric.name: _FORMULAS[metric.kind](judged, metric.k) for metric in parsed}


def _judge(ranked: Sequence[Sequence[Id]], judgements: Sequence[Mapping[Id, int]], depth: int, gain: Gain) -> _Judged:
    # no cutoff needs more columns than the longest ranking or the longest list of relevant documents has
    depth = min(depth, max((max(len(r), len(j)) for r, j in zip(ranked, judgements, strict=True)), default=1))
    grades, best = (np.zeros((len(ranked), depth)) for _ in range(2))
    total = np.zeros(len(ranked), dtype=np.int64)
    for number, (documents, known) in enumerate(zip(ranked, judgements, strict=True)):
        if len(set(documents)) != len(documents):
            twice = next(key for place, key in enumerate(documents) if key in documents[:place])
            raise BadInput(f"ranking {number}: document {twice!r} is ranked twice. Keep its first place only.")
        positive = sorted((grade for grade in known.values() if grade > 0), reverse=True)
        if not positive:
            raise BadInput(
                f"ranking {number}: its query has no relevant document (a grade above 0). Leave such queries out first."
            )
        total[number] = len(positive)
        row = [max(known.get(key, 0), 0) for key in documents[:depth]]
        grades[number, : len(row)] = row
        best[number, : len(positive[:depth])] = positive[:depth]
    worth: Callable[[np.ndarray], np.ndarray] = (lambda g: g) if gain == "linear" else (lambda g: np.exp2(g) - 1)
    return _Judged(worth(grades), worth(best), grades > 0, total)


def _dcg(gains: Float[np.ndarray, "q k"]) -> Float[np.ndarray, " q"]:
    return _sum(gains / np.log2(np.arange(gains.shape[1]) + 2))


def _sum(columns: Float[np.ndarray, "q k"]) -> Float[np.ndarray, " q"]:
    """Row sums from left to right, so that columns of zeros at the end change no bit: equal rankings must have equal scores."""
    return columns.cumsum(axis=1)[:, -1]


def _ndcg(judged: _Judged, k: int) -> Float[np.ndarray, " q"]:
    return _dcg(judged.gains[:, :k]) / _dcg(judged.ideal[:, :k])


def _found(judged: _Judged, k: int) -> Int[np.ndarray, " q"]:
    return judged.relevant[:, :k].sum(axis=1)


def _mrr(judged: _Judged, k: int) -> Float[np.ndarray, " q"]:
    top = judged.relevant[:, :k]
    return np.where(top.any(axis=1), 1 / (top.argmax(axis=1) + 1), 0.0)


def _map(judged: _Judged, k: int) -> Float[np.ndarray, " q"]:
    top = judged.relevant[:, :k]
    precision = top.cumsum(axis=1) / (np.arange(top.shape[1]) + 1)
    return _sum(precision * top) / judged.total


_FORMULAS: dict[str, Callable[[_Judged, int], Float[np.ndarray, " q"]]] = {
    "ndcg": _ndcg,
    "recall": lambda judged, k: _found(judged, k) / judged.total,
    "mrr": _mrr,
    "map": _map,
    "precision": lambda judged, k: _found(judged, k) / k,
    "success": lambda judged, k: (_found(judged, k) > 0).astype(np.float64),
}
_LABELS = {"ndcg": "nDCG", "recall": "Recall", "mrr": "MRR", "map": "MAP", "precision": "Precision", "success": "Success"}

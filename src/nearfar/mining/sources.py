"""Where candidates come from: searches by name, each a list of documents for every query, best first.

Hybrid lists are fused by reciprocal rank (Cormack 2009, "Reciprocal Rank Fusion outperforms Condorcet", k = 60).

Decisions. A list holds what may be a negative and nothing else: known positives, their copies, the query and its group are left out here,
and a search goes on until `depth` others are found or there are no more. So the place in the list is the rank that rules count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nearfar.errors import BadConfig, BadInput
from nearfar.index import LexicalIndex
from nearfar.mining.clusters import assign, cluster_count, find_centres
from nearfar.mining.material import KINDS, Material
from nearfar.mining.rows import Vectors
from nearfar.similarity import topk
from nearfar.types import Progress

FUSION = 60
"""k of reciprocal rank fusion."""
AT_ONCE = 4_096
"""Queries searched between two looks at the clock."""
SPARE = 16
"""Places searched beyond the depth for what is never a negative; queries with more of it are searched once more."""


class Found(NamedTuple):
    """What a search found. `ids` [Q, depth] are candidates, best first, -1 beyond the last; `left_out` counts by `KINDS` what was
    passed over because it is never a negative, `examples` are (query, candidate) of one each, -1 where there is none."""

    ids: np.ndarray
    left_out: np.ndarray
    examples: np.ndarray


@dataclass(frozen=True)
class Search:
    """One search over all queries."""

    material: Material
    vectors: Vectors | None
    depth: int
    seed: int
    progress: Progress


Find = Callable[[np.ndarray, int], np.ndarray]
"""(queries [b], width) -> candidates [b, width], best first, -1 beyond the last."""


def _dense(search: Search) -> Found:
    vectors = _need(search, "dense")
    rows, queries = vectors.candidates, vectors.queries
    return search_all(search, "dense", lambda chosen, width: topk(queries[chosen], rows, width).ids)


def _approximate(search: Search) -> Found:
    from nearfar.index.approximate import ApproximateIndex
    from nearfar.index.records import ModelIdentity

    vectors = _need(search, "approximate")
    texts = search.material.candidate_texts
    index = ApproximateIndex(vectors.candidates.shape[1], ModelIdentity("mining", vectors.name))
    for start in range(0, len(texts), AT_ONCE):
        stop = min(len(texts), start + AT_ONCE)
        search.progress("index", start, len(texts))
        index.add([str(i) for i in range(start, stop)], texts[start:stop], vectors.candidates[start:stop])
    search.progress("index", len(texts), len(texts))
    return search_all(search, "approximate", lambda chosen, width: index.search(vectors.queries[chosen], width).ids)


def _bm25(search: Search) -> Found:
    texts = search.material.candidate_texts
    index = LexicalIndex.build([str(i) for i in range(len(texts))], texts)
    queries = search.material.queries
    return search_all(search, "bm25", lambda chosen, width: index.search([queries[i] for i in chosen], width).ids, at_once=256)


def _random(search: Search) -> Found:
    order = np.argsort(search.material.candidate_numbers, kind="stable")
    return search_all(search, "random", lambda chosen, width: _draws(search, chosen, [order] * len(chosen), width))


def _cluster(search: Search) -> Found:
    vectors = _need(search, "cluster")
    order = np.argsort(search.material.candidate_numbers, kind="stable")
    rows = vectors.candidates[order]
    centres = find_centres(rows, cluster_count(len(rows)), seed=search.seed)
    of_candidate, of_query = assign(rows, centres), assign(vectors.queries, centres)
    members = [order[of_candidate == c] for c in range(len(centres))]
    return search_all(
        search, "cluster", lambda chosen, width: _draws(search, chosen, [members[of_query[q]] for q in chosen], width)
    )


def _cross_source(search: Search) -> Found:
    vectors, material = _need(search, "cross_source"), search.material
    if len(material.sources) < 2:
        raise BadInput(
            "sources: cross_source looks among the documents of other sources, and all pairs are of one. Give pairs with a column "
            "'source', or leave cross_source out."
        )
    allowed: dict[frozenset[int], np.ndarray] = {}
    for own in set(material.sources_of_query):
        allowed[own] = np.array(
            [i for i, those in enumerate(material.sources_of_candidate) if those and not those & own], dtype=np.int64
        )

    def find(chosen: np.ndarray, width: int) -> np.ndarray:
        found = np.full((len(chosen), width), -1, dtype=np.int64)
        for own, among in allowed.items():
            rows = np.array([i for i, q in enumerate(chosen) if material.sources_of_query[q] == own], dtype=np.int64)
            if len(rows) and len(among):
                ids = topk(vectors.queries[chosen[rows]], vectors.candidates[among], width).ids
                found[rows] = np.where(ids >= 0, among[ids], -1)
        return found

    return search_all(search, "cross_source", find)


SEARCHES: dict[str, Callable[[Search], Found]] = {
    "dense": _dense,
    "approximate": _approximate,
    "bm25": _bm25,
    "random": _random,
    "cluster": _cluster,
    "cross_source": _cross_source,
}
"""Searches by name; `hybrid` is made of two of them."""
HYBRID = "hybrid"
FUSED = ("dense", "bm25")
NAMES = (*SEARCHES, HYBRID)
DRAWN = ("random", "cluster")
"""These are drawn by chance: what they find depends on the seed."""
PREFIXED = ("dense", "bm25", "cross_source")
"""A shallower list of these is the beginning of a deeper one."""
WITHOUT_MODEL = ("bm25", "random")
"""These need no vectors."""


def parse_sources(text: str) -> dict[str, float]:
    """`dense:0.7,bm25:0.2,random:0.1` (or names alone, alike) as shares by name. Raises `BadConfig` naming what is wrong."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, colon, share = part.strip().partition(":")
        try:
            number = float(share) if colon else 1.0
        except ValueError:
            number = -1.0
        if name not in NAMES:
            raise BadConfig(f"sources={text}: {name!r} is none. Known: {', '.join(NAMES)}.")
        if name in found:
            raise BadConfig(f"sources={text}: {name} is there twice. Give each once.")
        if not 0 < number < float("inf"):
            raise BadConfig(f"sources={text}: expected NAME:SHARE with a share above 0, as in dense:0.7,bm25:0.3.")
        found[name] = number
    return found


def split_count(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`count` in proportion to the shares, by largest remainder (the first of equals). Raises `BadConfig` where a source would get none."""
    total = sum(shares.values())
    exact = {name: count * share / total for name, share in shares.items()}
    found = {name: int(value + 1e-9) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: found[n] - exact[n])[: count - sum(found.values())]:
        found[name] += 1
    lacking = [name for name, number in found.items() if number == 0]
    if lacking:
        raise BadConfig(
            f"sources: of {count} negatives a pair, none would come from {lacking[0]}. Ask for more (--count), or give it a larger share."
        )
    return found


def fuse(lists: Iterable[np.ndarray], depth: int) -> np.ndarray:
    """Lists [q, k] of one set of queries as one [q, depth]: by the sum of 1 / (60 + rank), ties by ascending id."""
    several = list(lists)
    ids = np.concatenate(several, axis=1)
    gains = np.concatenate([np.broadcast_to(1 / (FUSION + np.arange(1, x.shape[1] + 1)), x.shape) for x in several], axis=1)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, gains = np.take_along_axis(ids, order, axis=1), np.take_along_axis(gains, order, axis=1)
    sums = gains.copy()
    for back in range(1, len(several)):  # an id stands at most once in each list: its copies lie side by side
        same = ids[:, back:] == ids[:, :-back]
        sums[:, back:][same] += gains[:, :-back][same]
    last = np.ones(ids.shape, dtype=bool)
    last[:, :-1] = ids[:, :-1] != ids[:, 1:]
    sums[~last | (ids < 0)] = -1.0
    best = np.lexsort((ids, -sums), axis=1)[:, :depth]
    return np.where(np.take_along_axis(sums, best, axis=1) > 0, np.take_along_axis(ids, best, axis=1), -1)


def _need(search: Search, name: str) -> Vectors:
    if search.vectors is None:
        raise BadConfig(f"sources: {name} compares a model's vectors, and there is no model. Give one (--model M).")
    return search.vectors


def search_all(search: Search, stage: str, find: Find, at_once: int = AT_ONCE) -> Found:
    """The lists of all queries: `depth` places each that may be negatives, or as many as there are."""
    material, depth = search.material, search.depth
    count, documents = len(material.queries), len(material.candidates)
    ids = np.full((count, depth), -1, dtype=np.int64)
    left_out, examples = np.zeros(len(KINDS), dtype=np.int64), np.full((len(KINDS), 2), -1, dtype=np.int64)
    search.progress(f"search {stage}", 0, count)
    for start in range(0, count, at_once):
        chosen = np.arange(start, min(count, start + at_once))
        width = min(documents, depth + min(SPARE, int(material.never_counts[chosen].max())))
        raw = find(chosen, width)
        kept, passed_over = _eligible(material, chosen, raw, depth)
        short = (kept < 0).any(axis=1) & (raw[:, -1] >= 0)
        if width < documents and short.any():
            wider = min(documents, depth + int(material.never_counts[chosen[short]].max()))
            again = find(chosen[short], wider)
            kept[short], more = _eligible(material, chosen[short], again, depth)
            passed_over = np.concatenate([passed_over[~np.isin(passed_over[:, 0], chosen[short])], more])
        ids[start : start + len(chosen)] = kept
        kinds = material.kinds(passed_over[:, 0], passed_over[:, 1])
        left_out += np.bincount(kinds, minlength=len(KINDS))
        for kind in np.unique(kinds):
            if examples[kind, 0] < 0:
                examples[kind] = passed_over[np.argmax(kinds == kind)]
        search.progress(f"search {stage}", start + len(chosen), count)
    return Found(ids, left_out, examples)


def _eligible(material: Material, queries: np.ndarray, raw: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `depth` of raw lists [b, w] that may be negatives, [b, depth]; and (query, candidate) [m, 2] of what was passed over on the way."""
    never = material.never(queries, raw)
    keep = (raw >= 0) & ~never
    order = np.argsort(~keep, axis=1, kind="stable")[:, :depth]
    kept = np.full((len(queries), depth), -1, dtype=np.int64)
    kept[:, : order.shape[1]] = np.where(np.take_along_axis(keep, order, axis=1), np.take_along_axis(raw, order, axis=1), -1)
    rows, columns = np.nonzero(never & (np.cumsum(keep, axis=1) < depth))
    return kept, np.stack([queries[rows], raw[rows, columns]], axis=1)


def _draws(search: Search, chosen: np.ndarray, pools: list[np.ndarray], width: int) -> np.ndarray:
    """Up to `width` of each query's pool by chance: a function of (seed, query) and what is in the pool, whatever the order of anything."""
    found = np.full((len(chosen), width), -1, dtype=np.int64)
    for row, (query, pool) in enumerate(zip(chosen.tolist(), pools, strict=True)):
        rng = np.random.default_rng([search.seed, int(search.material.query_numbers[query])])
        if 3 * width >= len(pool):
            drawn = pool[rng.permutation(len(pool))[:width]]
        else:
            distinct: dict[int, None] = {}
            while len(distinct) < width:
                distinct.update(dict.fromkeys(rng.integers(len(pool), size=width + 16).tolist()))
            drawn = pool[list(distinct)[:width]]
        found[row, : len(drawn)] = drawn
    return found

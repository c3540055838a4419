"""Hard negatives for pairs: search, judge, choose, and say what was done. Nothing is padded.

Decisions. A search's lists, with the model's scores of them, are kept by the hash of all that decided them; the rule is applied afterwards, so
another rule costs neither a vector nor a multiply. Scores come from one place whichever search found a document, so margins mean the
same for all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from nearfar.encoders import load_encoder
from nearfar.encoders.precision import Precision
from nearfar.errors import BadConfig, Interrupted
from nearfar.mining.cache import Cache, digest_of
from nearfar.mining.material import KINDS, Material
from nearfar.mining.rows import Vectors, similarities
from nearfar.mining.rule import REASONS, Chosen, NegativeRule, choose, draw_numbers, limit
from nearfar.mining.sources import (
    DRAWN,
    FUSED,
    HYBRID,
    PREFIXED,
    SEARCHES,
    WITHOUT_MODEL,
    Found,
    Search,
    fuse,
    parse_sources,
    split_count,
)
from nearfar.mining.summary import Example, Summary, Tally
from nearfar.mining.teacher import PairScorer, Teacher, open_teacher, teacher_over
from nearfar.types import Encoder, MinedNegative, Pair, Progress, silent

PAIRS_AT_ONCE = 4_096
"""Pairs judged at a time: bounds the memory beside the lists."""


DIGITS = 6
"""Scores and margins are written with so many decimals."""


class Mined(NamedTuple):
    """The pairs, in their order, with what was found; and what it came to."""

    pairs: list[Pair]
    summary: Summary


def mine(
    pairs: Sequence[Pair],
    *,
    encoder: Encoder | str | Path | None,
    rule: NegativeRule | None = None,
    corpus: Iterable[str] = (),
    sources: str | Mapping[str, float] = "dense",
    teacher: Encoder | PairScorer | str | Path | None = None,
    cache: Path | str | None = None,
    keep: bool = False,
    fill: bool = False,
    precision: Precision = "auto",
    progress: Progress = silent,
) -> Mined:
    """The pairs with up to `rule.count` hard negatives each, found among all their documents and `corpus`.

    `encoder` (or its name) finds and scores; None leaves bm25 and random, without scores. `sources` names the searches with their shares
    (`dense:0.7,bm25:0.3`): what one lacks is missing, unless `fill` lets the others give it. `teacher` (a stronger encoder, a folder of a
    cross-encoder, or a name) drops likely positives by `rule.teacher_below` and its scores are kept with the pairs. `cache` is a folder
    of vectors and found documents for the next time. With `keep` the negatives that are there stay, the mined after them; else they make room.

    A pair for which nothing is found keeps no negatives, and is counted. Memory: the vectors, the lists [queries, depth], and one slab.
    Raises `BadConfig` for rules or sources that cannot be met, `BadInput` for pairs that cannot be used, and `Interrupted` on a signal, saying
    what is kept.
    """
    began = perf_counter()
    rule = rule or NegativeRule()
    shares = (
        parse_sources(sources) if isinstance(sources, str) else parse_sources(",".join(f"{n}:{s}" for n, s in sources.items()))
    )
    quotas = split_count(rule.count, shares)
    _check_model(encoder, rule, shares)
    store = Cache(cache, progress)
    try:
        work = _prepare(pairs, encoder, corpus, store, precision, progress)
        lists = {name: work.listed(name, rule) for name in quotas}
        asked = None
        if teacher is not None:
            model = open_teacher(teacher, progress) if isinstance(teacher, (str, Path)) else teacher
            told = work.material.queries, work.material.documents
            asked = teacher_over(model, *told, store, precision=precision, progress=progress)
        tally = Tally(list(quotas))
        chooser = _Chooser(pairs, work, rule, quotas, lists, asked, tally, keep=keep, fill=fill)
        found = chooser.run()
    except KeyboardInterrupt as stop:
        kept = (
            f"what was encoded and found so far is kept in {cache}: the same command goes on from there."
            if cache
            else "nothing is kept."
        )
        raise Interrupted(f"interrupted; {kept}", getattr(stop, "signal", signal.SIGINT)) from stop
    summary = tally.close(
        pairs=len(pairs),
        queries=len(work.material.queries),
        documents=len(work.material.candidates),
        rule=rule,
        from_cache=[name for name in quotas if lists[name].was_kept],
        seconds=perf_counter() - began,
    )
    return Mined(found, summary)


def _check_model(encoder: object, rule: NegativeRule, shares: Mapping[str, float]) -> None:
    if encoder is not None:
        return
    wanting = [name for name in shares if name not in WITHOUT_MODEL]
    if wanting:
        raise BadConfig(f"sources: {wanting[0]} compares a model's vectors, and there is no model. Give one (--model M).")
    if rule.compares:
        raise BadConfig(
            f"{rule.compares[0]}: this rule compares a model's scores, and there is no model. Give one (--model M), or switch the rule off."
        )


class _List(NamedTuple):
    """One search's lists [Q, depth]: candidates, the model's scores of them (NaN without a model), what was passed over on the way."""

    ids: np.ndarray
    scores: np.ndarray
    left_out: np.ndarray
    examples: np.ndarray
    was_kept: bool


def _prepare(
    pairs: Sequence[Pair],
    encoder: Encoder | str | Path | None,
    corpus: Iterable[str],
    cache: Cache,
    precision: Precision,
    progress: Progress,
) -> _Work:
    progress("read", 0, 1)
    material = Material.build(pairs, corpus)
    progress("read", 1, 1)
    model = load_encoder(encoder, progress=progress) if isinstance(encoder, (str, Path)) else encoder
    return _Work(material, None if model is None else Vectors(model, material, cache, precision, progress), cache, progress)


@dataclass(frozen=True)
class _Work:
    """What all searches of one mining share."""

    material: Material
    vectors: Vectors | None
    cache: Cache
    progress: Progress

    def listed(self, name: str, rule: NegativeRule) -> _List:
        """The lists of one source with the model's scores: from the cache, or searched for and kept there."""
        depth = min(rule.depth, len(self.material.candidates))
        told = self._name(name, rule.seed)
        for kept in self.cache.hit_names(told) if name in PREFIXED else [f"{told}{depth:08d}"]:
            if int(kept.rpartition("-")[2]) >= depth and (found := self.cache.hits(kept)) is not None:
                arrays = found[0]
                return _List(
                    arrays["ids"][:, :depth], arrays["scores"][:, :depth], arrays["left_out"], arrays["examples"], True
                )
        if name == HYBRID:
            parts = [self.listed(part, rule) for part in FUSED]
            found = Found(fuse([part.ids for part in parts], depth), parts[0].left_out, parts[0].examples)
        else:
            found = SEARCHES[name](Search(self.material, self.vectors, depth, rule.seed, self.progress))
        scores = np.full(found.ids.shape, np.nan, dtype=np.float32)
        if self.vectors is not None:
            rows = np.arange(len(found.ids))[:, None]
            scores = similarities(self.vectors.queries, self.vectors.candidates, rows, np.maximum(found.ids, 0))
        made = _List(found.ids, scores, found.left_out, found.examples, False)
        arrays = {"ids": made.ids, "scores": made.scores, "left_out": made.left_out, "examples": made.examples}
        self.cache.keep_hits(f"{told}{depth:08d}", arrays, {"source": name, "depth": depth})
        return made

    def positive_scores(self) -> np.ndarray:
        """[P] the model's similarity of each pair's query and positive; NaN without a model."""
        told = self._name("positives", 0)
        found = self.cache.hits(told)
        if found is not None:
            return found[0]["scores"]
        if self.vectors is None:
            return np.full(len(self.material.query_of), np.nan, dtype=np.float32)
        scores = similarities(self.vectors.queries, self.vectors.documents, self.material.query_of, self.material.positive_of)
        self.cache.keep_hits(told, {"scores": scores}, {"source": "positives"})
        return scores

    def _name(self, source: str, seed: int) -> str:
        """Under which the lists of a source are kept; hashing all texts is left out where nothing is."""
        if self.cache.folder is None:
            return f"{source}-"
        model = None if self.vectors is None else self.vectors.identity
        return f"{source}-{digest_of(source, model, self.material.content, seed if source in DRAWN else None)}-"


class _Chooser:
    """Applies the rule to the lists, pairs by pairs, and writes the negatives into them."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        work: _Work,
        rule: NegativeRule,
        quotas: Mapping[str, int],
        lists: Mapping[str, _List],
        teacher: Teacher | None,
        tally: Tally,
        *,
        keep: bool,
        fill: bool,
    ) -> None:
        self.pairs, self.work, self.rule, self.quotas, self.lists = pairs, work, rule, quotas, lists
        self.teacher, self.tally, self.keep, self.fill = teacher, tally, keep, fill
        self.material = work.material

    def run(self) -> list[Pair]:
        positives = self.work.positive_scores()
        self._count_left_out()
        found: list[Pair] = []
        for start in range(0, len(self.pairs), PAIRS_AT_ONCE):
            rows = np.arange(start, min(len(self.pairs), start + PAIRS_AT_ONCE))
            found += self._pairs(rows, positives[rows])
            self.work.progress("choose", len(found), len(self.pairs))
        return found

    def _pairs(self, rows: np.ndarray, positives: np.ndarray) -> list[Pair]:
        """These pairs with their negatives."""
        queries, material = self.material.query_of[rows], self.material
        taught = self._ask(queries, material.positive_of[rows]) if self.teacher else None
        there = [material.negatives_of[row] if self.keep else () for row in rows.tolist()]
        widest = max(map(len, there), default=0)
        most = min(self.rule.count, len(material.candidates))
        taken = np.full((len(rows), widest + most), -2, dtype=np.int64)  # -1 is no document, -2 no place
        for i, own in enumerate(there):
            taken[i, : len(own)] = material.candidate_of[list(own)]
        chosen: list[list[tuple[int, MinedNegative]]] = [[] for _ in rows]
        filled = np.full(len(rows), widest)
        for again in (False, True) if self.fill else (False,):
            for name, quota in self.quotas.items():
                wanted = self.rule.count - (filled - widest) if again else np.full(len(rows), quota)
                if not again:
                    self.tally.asked[name] += quota * len(rows)
                self._take(name, wanted, queries, positives, taught, taken, filled, chosen, count=not again)
        return [
            self._written(row, own, *what)
            for row, own, what in zip(rows.tolist(), there, self._told(queries, chosen, taught, there), strict=True)
        ]

    def _take(
        self,
        name: str,
        wanted: np.ndarray,
        queries: np.ndarray,
        positives: np.ndarray,
        taught: np.ndarray | None,
        taken: np.ndarray,
        filled: np.ndarray,
        chosen: list[list[tuple[int, MinedNegative]]],
        *,
        count: bool,
    ) -> None:
        """Add up to `wanted` negatives of one source to each pair of a part."""
        material, rule = self.material, self.rule
        ids, scores = self.lists[name].ids[queries], self.lists[name].scores[queries]
        draws = None
        if rule.sampling != "top":
            draws = draw_numbers(rule.seed, material.query_numbers[queries], material.candidate_numbers[np.maximum(ids, 0)])

        def allows(at: np.ndarray, places: np.ndarray) -> np.ndarray:
            assert taught is not None
            said = self._ask(queries[at], material.candidates[ids[at, places]])
            return said <= limit(taught[at], rule.teacher_below)

        before = np.zeros(ids.shape, dtype=bool)
        for slot in range(int(filled.max(initial=0))):  # one after the other: all at once is pairs x depth x count
            before |= ids == taken[:, slot, None]
        found = choose(
            scores,
            positives,
            ids >= 0,
            rule,
            counts=wanted,
            draws=draws,
            taken=before,
            allows=allows if self.teacher else None,
        )
        if count:
            self._count_dropped(name, found, queries, ids, scores, positives)
        places = np.sort(np.where(found.places < 0, ids.shape[1], found.places), axis=1)  # by rank, those without a place last
        for i, slot in np.argwhere(places < ids.shape[1]).tolist():
            place = int(places[i, slot])
            score, own = float(scores[i, place]), float(positives[i])
            told = (round(score, DIGITS), round(own - score, DIGITS)) if score == score else (None, None)
            taken[i, filled[i]] = ids[i, place]
            filled[i] += 1
            chosen[i].append((int(ids[i, place]), MinedNegative(name, place + 1, *told)))
        self.tally.found[name] += int((places < ids.shape[1]).sum())
        spread = positives[:, None] - np.take_along_axis(scores, np.minimum(places, ids.shape[1] - 1), axis=1)
        self.tally.margins.append(spread[places < ids.shape[1]])

    def _told(
        self,
        queries: np.ndarray,
        chosen: list[list[tuple[int, MinedNegative]]],
        taught: np.ndarray | None,
        there: list[tuple[int, ...]],
    ) -> list[tuple[list[tuple[int, MinedNegative]], tuple[float, ...]]]:
        """What was chosen for each pair, with the teacher's scores of its positive, the negatives there before, and those found."""
        if taught is None:
            return [(own, ()) for own in chosen]
        documents = [
            [*kept, *(int(self.material.candidates[i]) for i, _ in own)] for kept, own in zip(there, chosen, strict=True)
        ]
        rows = np.repeat(queries, [len(d) for d in documents])
        said = iter(self._ask(rows, np.array([d for own in documents for d in own], dtype=np.int64)).tolist())
        return [
            (own, (float(positive), *(next(said) for _ in those)) if those else ())
            for own, positive, those in zip(chosen, taught.tolist(), documents, strict=True)
        ]

    def _written(
        self, row: int, there: tuple[int, ...], own: list[tuple[int, MinedNegative]], taught: tuple[float, ...]
    ) -> Pair:
        """One pair with its negatives, and the counts of it."""
        pair, texts = self.pairs[row], self.material.candidate_texts
        kept = pair.negatives if self.keep else ()
        before = pair.mined if self.keep and pair.mined else tuple(MinedNegative("given", 0) for _ in there)
        self.tally.kept += len(kept)
        self.tally.without += not (kept or own)
        self.tally.full += len(own) == self.rule.count
        if own and self.tally.first is None:
            at, said = own[0]
            near = None if said.score is None or said.margin is None else said.score + said.margin
            self.tally.first = Example(pair.query, texts[at], said.source, said.score, near)
        if not own and self.keep:
            return pair if not taught else pair.with_negatives(kept, teacher_scores=taught, mined=pair.mined)
        return pair.with_negatives(
            [*kept, *(texts[i] for i, _ in own)], teacher_scores=taught, mined=[*before, *(m for _, m in own)]
        )

    def _ask(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        assert self.teacher is not None
        return self.teacher.ask(queries, documents, self.work.progress)

    def _count_left_out(self) -> None:
        for name, own in self.lists.items():
            for kind, number, (query, document) in zip(KINDS, own.left_out.tolist(), own.examples.tolist(), strict=True):
                if self.tally.drop(kind, number):
                    texts = self.material.queries[query], self.material.candidate_texts[document]
                    self.tally.examples[kind] = Example(*texts, name, None, None)

    def _count_dropped(
        self, name: str, found: Chosen, queries: np.ndarray, ids: np.ndarray, scores: np.ndarray, positives: np.ndarray
    ) -> None:
        masks: list[tuple[str, np.ndarray]] = [(reason, found.codes == code) for code, reason in enumerate(REASONS) if code > 1]
        for reason, mask in [*masks, ("teacher", found.refused)]:
            if self.tally.drop(reason, int(mask.sum())):
                i, place = np.argwhere(mask)[0].tolist()
                texts = self.material.queries[queries[i]], self.material.candidate_texts[ids[i, place]]
                known = bool(np.isfinite(scores[i, place]))
                told = (float(scores[i, place]), float(positives[i])) if known else (None, None)
                self.tally.examples[reason] = Example(*texts, name, *told)

"""How many of the nearest non-positives are right answers: a person says yes or no to a sample, the rate is estimated with an interval.

Decisions. The population is the `DEPTH` nearest documents of each sampled query that the file does not name as its positive (nor near copies of one): what a miner would
choose from, and what is wrongly pushed away in a large batch. It is cut into bands by nearness to the query relative to the positive, because right answers crowd at
the top; the same number is asked of each band, at most one a query, and the bands' shares are weighted by their sizes (stratified sampling: Cochran 1977, ch. 5), with
Wilson's interval in each band and the square-and-add rule over them (Zou and Donner 2008). Every answer is one line of JSON, on the disk before the next question is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nearfar.auditing.material import Material
from nearfar.data.text import normalize
from nearfar.errors import BadInput, Damaged
from nearfar.files import refusals
from nearfar.metrics import stratified_interval
from nearfar.similarity import topk
from nearfar.types import Finding

BANDS = (1.0, 0.95, 0.9, 0.8)
"""Lower edges of the bands: similarity to the query, as a share of the positive's. The last band is what lies below."""
DEPTH = 20
QUERIES = 1_000
"""Queries whose nearest documents are looked at, at most."""

Answer = Literal["yes", "no", "skip"]


class Candidate(NamedTuple):
    """A document that may be a right answer: who asked, where the query stands, the document, its band (0 is nearest)."""

    where: str
    query: str
    positive: str
    document: str
    band: int

    def key(self) -> tuple[str, str]:
        """What it is known by in the file of answers."""
        return normalize(str(self.query)), normalize(str(self.document))  # pictures by name, as the file has them


@dataclass(frozen=True)
class Sample:
    """Candidates in the order in which they are asked about, and how many there are in each band of the population."""

    candidates: tuple[Candidate, ...]
    sizes: tuple[int, ...]


def sample_candidates(material: Material, count: int) -> Sample:
    """About `count` candidates, spread evenly over the bands, chosen by the seed; the bands take turns. Raises `BadInput` without an encoder or for count < 1."""
    if material.encoder is None:
        raise BadInput("--review needs a model to find candidates with: add --model static (or a better one).")
    if count < 1:
        raise BadInput(f"--count {count}: expected at least 1.")
    rng = np.random.default_rng(material.seed)
    rows = np.unique(material.queries.number, return_index=True)[1]
    if len(rows) > QUERIES:
        rows = np.sort(rng.choice(rows, QUERIES, replace=False))
    queries = material.query_rows[material.queries.number[rows]]
    documents = material.document_rows
    own = (queries * documents[material.positives[rows]]).sum(axis=1)
    groups = material.document_groups
    known = {(query, int(groups[document])) for query, document in material.known}
    hits = topk(queries, documents, min(len(documents), 2 * DEPTH))
    bands: list[list[tuple[int, int]]] = [[] for _ in range(len(BANDS) + 1)]
    for place, row in enumerate(rows.tolist()):
        query = int(material.queries.number[row])
        itself = normalize(material.pairs[row].query)
        taken: set[int] = set()
        for document, score in zip(hits.ids[place].tolist(), hits.scores[place].tolist(), strict=True):
            group = int(groups[document]) if document >= 0 else -1
            if document < 0 or len(taken) == DEPTH or (query, group) in known or group in taken:
                continue
            if normalize(material.documents.distinct[document]) == itself:
                continue
            taken.add(group)
            bands[_band(score, float(own[place]))].append((row, document))
    chosen: list[list[Candidate]] = []
    for number, band in enumerate(bands):
        one_each = {band[i][0]: band[i] for i in rng.permutation(len(band))}  # one a query
        order = [list(one_each.values())[i] for i in rng.permutation(len(one_each))]
        chosen.append([_candidate(material, row, document, number) for row, document in order])
    asked: list[Candidate] = []
    turn = 0
    while len(asked) < count and any(turn < len(band) for band in chosen):
        asked += [band[turn] for band in chosen if turn < len(band)]
        turn += 1
    return Sample(tuple(asked[:count]), tuple(len(band) for band in bands))


def _band(score: float, positive: float) -> int:
    share = score / positive if positive > 0 else np.inf
    return next((number for number, edge in enumerate(BANDS) if share >= edge), len(BANDS))


def _candidate(material: Material, row: int, document: int, band: int) -> Candidate:
    pair = material.pairs[row]
    return Candidate(material.where[row], pair.query, pair.positive, material.documents.distinct[document], band)


def read_answers(path: Path) -> dict[tuple[str, str], Answer]:
    """The answers kept so far; a last line that a kill left without its end is no answer. Raises `Damaged` for any other line that is none."""
    if not path.exists():
        return {}
    found: dict[tuple[str, str], Answer] = {}
    whole = path.read_bytes().rpartition(b"\n")[0]
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            answer = record["answer"]
            if answer not in ("yes", "no", "skip"):
                raise ValueError(f"the answer is {answer!r}")
            found[normalize(record["query"]), normalize(record["document"])] = answer
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{path}:{number}: this is no answer ({error}). Drop the line, or move the file away to begin anew."
            ) from error
    return found


def keep_answer(path: Path, candidate: Candidate, answer: Answer) -> None:
    """Add one answer to the file, and have it on the disk before returning. What a kill left of a last line is taken away first."""
    line = json.dumps(
        {
            "answer": answer,
            "where": candidate.where,
            "band": candidate.band,
            "query": candidate.query,
            "document": candidate.document,
        },
        ensure_ascii=False,
    )
    with refusals(path):
        if path.exists():
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                with open(path, "r+b") as handle:
                    handle.truncate(data.rfind(b"\n") + 1)
        with open(path, "ab") as handle:
            handle.write(line.encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())


def review(sample: Sample, path: Path, ask: Callable[[Candidate, int, int], Answer | None]) -> Mapping[tuple[str, str], Answer]:
    """Ask about every candidate without an answer in `path`; `ask(candidate, number, total)` returns None to stop. Returns all answers."""
    answers = read_answers(path)
    for number, candidate in enumerate(sample.candidates, 1):
        if candidate.key() in answers:
            continue
        answer = ask(candidate, number, len(sample.candidates))
        if answer is None:
            break
        keep_answer(path, candidate, answer)
        answers[candidate.key()] = answer
    return answers


def rate(sample: Sample, answers: Mapping[tuple[str, str], Answer], *, where: str, model: str) -> Finding | None:
    """The estimated share of right answers among the nearest non-positives; None while no one has said yes or no."""
    said: list[Sequence[bool]] = []
    for band in range(len(sample.sizes)):
        given = [answers.get(candidate.key()) for candidate in sample.candidates if candidate.band == band]
        said.append([answer == "yes" for answer in given if answer in ("yes", "no")])
    total = sum(map(len, said))
    if not total:
        return None
    share = stratified_interval(sample.sizes, [sum(part) for part in said], [len(part) for part in said])
    edges = [f"{edge:g} or more" if number == 0 else f"{edge:g} to {BANDS[number - 1]:g}" for number, edge in enumerate(BANDS)]
    names = [*edges, f"below {BANDS[-1]:g}"]
    told = "; ".join(
        f"{name}: {sum(part)} of {len(part)} (of {size:,})"
        for name, part, size in zip(names, said, sample.sizes, strict=True)
        if size
    )
    return Finding(
        "false_negatives",
        "data",
        "warning" if share.low >= 0.05 else "info",
        f"about {share.mean:.1%} [{share.low:.1%}, {share.high:.1%}] of the {DEPTH} nearest non-positives of a query are right answers, by {total} answers. "
        f"By similarity as a share of the positive's: {told}.",
        sum(map(sum, said)),
        total,
        share.mean,
        f"Give right answers the query's `group`, or mask what is too near in training: nearfar train {where} -o RUN --set loss.name=gist --set loss.guide={model}",
        share.low,
        share.high,
    )

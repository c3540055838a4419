"""Run a system over a task and keep everything a comparison needs: a number per query and metric, and the rankings.

Tasks are judged as BEIR does (Thakur 2021, arXiv 2104.08663), metrics as trec_eval computes them (`nearfar.metrics.ranking`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from nearfar.data.text import normalize
from nearfar.errors import BadConfig, BadInput, Damaged, Mismatch
from nearfar.files import read_json, write_json
from nearfar.metrics.ranking import Gain, parse_metric, score_run
from nearfar.metrics.significance import bootstrap_interval
from nearfar.types import Encoder, Hits, Picture, Progress, Task, silent

METRICS = ("ndcg@10", "recall@10", "mrr@10")
"""What is measured unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a system did on a task, query by query. q is the number of queries that have a relevant document.

    It can be saved and compared later without the model, the task or another search.
    """

    system: str
    task: str
    task_fingerprint: str
    """Of the task's texts and judgements (`fingerprint_task`): evaluations are comparable where it is the same."""
    query_ids: tuple[str, ...]
    metrics: Mapping[str, Float[np.ndarray, " q"]]
    """Metric name -> one number in 0..1 per query, in the order of `query_ids`."""
    ranked: tuple[tuple[str, ...], ...]
    """The ids of at most `depth` documents per query, best first."""
    scores: tuple[tuple[float, ...], ...]
    """The similarities (or BM25 scores) beside `ranked`."""
    depth: int
    gain: Gain
    skipped: int
    """Queries of the task left out because nothing is relevant to them."""
    identical_dropped: int
    """Queries from whose ranking the document that is the query itself was left out (see `evaluate`)."""
    model_fingerprint: str | None = None
    """Of the encoder; None for BM25."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long `documents` (encoding or indexing), `queries` and `search` took."""

    def summary(
        self, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
    ) -> dict[str, dict[Literal["mean", "low", "high"], float]]:
        """Metric name -> mean over queries and its interval (`nearfar.metrics.bootstrap_interval`), ready for JSON."""
        return {
            name: {"mean": found.mean, "low": found.low, "high": found.high}
            for name, values in self.metrics.items()
            for found in [bootstrap_interval(values, confidence=confidence, resamples=resamples, seed=seed)]
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values; `from_json` gives an equal evaluation back."""
        plain = {name: value for name, value in vars(self).items() if name not in ("metrics", "scores", "seconds")}
        return {
            "format": _FORMAT,
            **plain,
            "seconds": dict(self.seconds),
            "metrics": {name: values.tolist() for name, values in self.metrics.items()},
            # nine digits say a float32 exactly
            "scores": [[float(f"{score:.9g}") for score in row] for row in self.scores],
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str = "evaluation") -> Evaluation:
        """The inverse of `to_json`. Raises `Damaged`, naming `where`, for what is no evaluation or does not fit together."""
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise Damaged(f"{where}: this is no evaluation written by nearfar ('format' is not {_FORMAT!r}). Evaluate anew.")
        try:
            made = cls(
                **{name: value[name] for name in ("system", "task", "task_fingerprint", "depth", "gain", "skipped")},
                identical_dropped=value["identical_dropped"],
                model_fingerprint=value["model_fingerprint"],
                query_ids=tuple(value["query_ids"]),
                metrics={name: np.array(values, dtype=np.float64) for name, values in value["metrics"].items()},
                ranked=tuple(tuple(row) for row in value["ranked"]),
                scores=tuple(tuple(float(np.float32(score)) for score in row) for row in value["scores"]),
                seconds=dict(value["seconds"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"{where}: a field of the evaluation is missing or wrong ({error!r}). Evaluate anew.") from error
        lengths = {len(made.query_ids), len(made.ranked), len(made.scores), *(len(values) for values in made.metrics.values())}
        if len(lengths) != 1 or [len(row) for row in made.ranked] != [len(row) for row in made.scores]:
            raise Damaged(f"{where}: queries, metrics, rankings and scores of the evaluation differ in number. Evaluate anew.")
        return made

    def save(self, path: Path | str) -> None:
        """Write the evaluation as one JSON file, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Evaluation:
        """Read what `save` wrote. Raises `BadInput` where there is no file, `Damaged` where it is no evaluation."""
        return cls.from_json(read_json(path), where=str(path))


_FORMAT = "nearfar-evaluation-1"


def evaluate(
    system: Encoder | Literal["bm25"],
    task: Task,
    *,
    metrics: Sequence[str] = METRICS,
    depth: int = 100,
    name: str | None = None,
    gain: Gain = "linear",
    ignore_identical_ids: bool = True,
    progress: Progress = silent,
) -> Evaluation:
    """Rank the whole corpus for every query, keep the best `depth` documents, and score them.

    `system` is an encoder (exact search by dot product) or `"bm25"`. `name` is what the system is called (default: its class).
    Equal scores are in order of *descending* document id, trec_eval's rule, so no result depends on the order of a file.
    Queries without a relevant document are left out and counted in `Evaluation.skipped`.

    `ignore_identical_ids` is BEIR's option for collections whose queries are documents (ArguAna): the document with the
    query's id is left out of its ranking, unless it is judged relevant. Collections that merely number both from 1 (Cranfield)
    are told apart by the texts: ids count as shared only if at least half of those documents contain their query's text.

    Raises `BadInput` for an empty corpus, no query with a relevant document, judgements of unknown ids, and rows that are not
    finite; `BadConfig` for an unknown system or metric, or a metric deeper than `depth`. Memory O(n d) and one slab.
    """
    names = _check_scoring(metrics, depth, gain)
    if system != "bm25" if isinstance(system, str) else not isinstance(system, Encoder):
        raise BadConfig(f"system: expected an encoder or 'bm25', found {system!r}. Open models with load_encoder first.")
    asked = _ask(task, depth, ignore_identical_ids)
    documents, texts = [task.corpus[key] for key in asked.keys], [task.queries[query] for query in asked.queries]
    if isinstance(system, str):
        hits, seconds = _search_terms(documents, texts, asked.k, progress)
    else:
        hits, seconds = _search_rows(system, documents, texts, asked.k, progress)
    return _scored(
        asked,
        hits,
        task,
        names,
        depth=depth,
        gain=gain,
        system=name or (system if isinstance(system, str) else type(system).__name__),
        model_fingerprint=None if isinstance(system, str) else system.fingerprint(),
        seconds=seconds,
    )


def evaluate_rows(
    queries: Float[np.ndarray, "q d"],
    documents: Float[np.ndarray, "n d"],
    task: Task,
    *,
    name: str,
    metrics: Sequence[str] = METRICS,
    depth: int = 100,
    model_fingerprint: str | None = None,
) -> Evaluation:
    """As `evaluate` (linear gain, no document left out), with rows that are there already: one for each of the task's queries and documents, in its order.

    Raises as `evaluate`, and `Mismatch` where the rows are not as many.
    """
    from nearfar.similarity.nearest import topk

    names = _check_scoring(metrics, depth, "linear")
    if (len(queries), len(documents)) != (len(task.queries), len(task.corpus)):
        raise Mismatch(
            f"task {task.name}: {len(queries):,} and {len(documents):,} rows for {len(task.queries):,} queries and {len(task.corpus):,} "
            "documents. Give a row for each, in the order of the task."
        )
    asked = _ask(task, depth, False)
    place = {key: row for row, key in enumerate(task.corpus)}, {key: row for row, key in enumerate(task.queries)}
    wanted = queries[[place[1][query] for query in asked.queries]]
    hits = topk(wanted, documents[[place[0][key] for key in asked.keys]], asked.k)
    return _scored(
        asked, hits, task, names, depth=depth, gain="linear", system=name, model_fingerprint=model_fingerprint, seconds={}
    )


def _check_scoring(metrics: Sequence[str], depth: int, gain: Gain) -> list[str]:
    """The canonical names of the metrics. Raises `BadConfig`."""
    parsed = [parse_metric(metric) for metric in metrics]
    deepest = max(parsed, key=lambda metric: metric.k, default=None)
    if deepest is None or depth < deepest.k:
        wanted = "at least one metric" if deepest is None else f"depth of at least {deepest.k} for {deepest.name}"
        raise BadConfig(f"{wanted} is needed, found metrics {', '.join(metrics) or 'none'} and depth {depth}.")
    if gain not in get_args(Gain):
        raise BadConfig(f"gain: expected {' or '.join(get_args(Gain))}, found {gain!r}.")
    return [metric.name for metric in parsed]


class _Asked(NamedTuple):
    """The queries that can be scored, the documents in the order they are searched, and how many of them are looked at."""

    queries: list[str]
    keys: list[str]
    """In descending order of id: every search breaks ties by ascending row."""
    own: dict[str, str]
    k: int


def _ask(task: Task, depth: int, ignore_identical_ids: bool) -> _Asked:
    queries = _scorable(task)
    own = _own_documents(task, queries) if ignore_identical_ids else {}
    # one more than asked for, where one may be left out
    return _Asked(queries, sorted(task.corpus, reverse=True), own, min(depth + bool(own), len(task.corpus)))


def _scored(
    asked: _Asked,
    hits: Hits,
    task: Task,
    names: Sequence[str],
    *,
    depth: int,
    gain: Gain,
    system: str,
    model_fingerprint: str | None,
    seconds: Mapping[str, float],
) -> Evaluation:
    """What was found, scored."""
    ranked, scores = _rank(asked, hits, depth)
    return Evaluation(
        system=system,
        task=task.name,
        task_fingerprint=fingerprint_task(task),
        query_ids=tuple(asked.queries),
        metrics=score_run(ranked, [task.judgements[query] for query in asked.queries], names, gain=gain),
        ranked=ranked,
        scores=scores,
        depth=depth,
        gain=gain,
        skipped=len(task.queries) - len(asked.queries),
        identical_dropped=len(asked.own),
        model_fingerprint=model_fingerprint,
        seconds=seconds,
    )


def _rank(asked: _Asked, hits: Hits, depth: int) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[float, ...], ...]]:
    ranked, scores = [], []
    for query, ids, values in zip(asked.queries, hits.ids, hits.scores, strict=True):
        found = [
            (asked.keys[row], float(value))
            for row, value in zip(ids, values, strict=True)
            if row >= 0 and asked.keys[row] != asked.own.get(query)
        ]
        ranked.append(tuple(key for key, _ in found[:depth]))
        scores.append(tuple(value for _, value in found[:depth]))
    return tuple(ranked), tuple(scores)


def fingerprint_task(task: Task) -> str:
    """SHA-256 over a task's documents, queries and judgements in order of id, pictures by name and bytes, as `sha256:<hex>`; its own name does not count."""
    digest = hashlib.sha256()
    for part in (task.corpus, task.queries, task.judgements):
        for key in sorted(part):
            digest.update(json.dumps([key, part[key]], sort_keys=True, default=dict).encode())
            if isinstance(item := part[key], Picture):
                digest.update(item.identity.encode(errors="surrogatepass"))
        digest.update(b"\n")
    return f"sha256:{digest.hexdigest()}"


def _scorable(task: Task) -> list[str]:
    """The queries that have a relevant document, in the task's order; judgements must speak of what is there."""
    if not task.corpus:
        raise BadInput(f"task {task.name}: the corpus is empty. There is nothing to find.")
    for query, grades in task.judgements.items():
        if query not in task.queries:
            raise BadInput(
                f"task {task.name}: query {query!r} is judged, and no query has this id. Add it or drop the judgements."
            )
        unknown = next((key for key, grade in grades.items() if grade > 0 and key not in task.corpus), None)
        if unknown is not None:
            raise BadInput(
                f"task {task.name}: document {unknown!r} is judged relevant to query {query!r}, and no document has this id. "
                "It could never be found: add it or drop the judgement."
            )
    queries = [query for query in task.queries if any(grade > 0 for grade in task.judgements.get(query, {}).values())]
    if not queries:
        raise BadInput(
            f"task {task.name}: none of {len(task.queries):,} queries has a relevant document. There is nothing to measure."
        )
    return queries


def _own_documents(task: Task, queries: Sequence[str]) -> dict[str, str]:
    """Query id -> the id of the document that is the query itself, where the task's queries are documents."""
    shared = [query for query in queries if query in task.corpus]
    same = sum(normalize(task.queries[query]) in normalize(task.corpus[query]) for query in shared)
    if 2 * same < len(shared):
        return {}
    return {query: query for query in shared if task.judgements[query].get(query, 0) <= 0}


def _search_rows(
    encoder: Encoder, documents: Sequence[str], queries: Sequence[str], k: int, progress: Progress
) -> tuple[Hits, dict[str, float]]:
    from nearfar.embedding import embed
    from nearfar.similarity.nearest import topk

    marks = [perf_counter()]
    rows = embed(encoder, documents, role="document", progress=progress, stage="documents")
    marks.append(perf_counter())
    asked = embed(encoder, queries, role="query", progress=progress, stage="queries")
    marks.append(perf_counter())
    check_finite("document texts", rows)
    check_finite("query texts", asked)
    hits = topk(asked, rows, k)
    marks.append(perf_counter())
    return hits, _spans(marks, ("documents", "queries", "search"))


def check_finite(what: str, rows: Float[np.ndarray, "n d"]) -> None:
    """Raise `BadInput` where an encoder's rows of `what` are not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise BadInput(
            f"the encoder gave rows that are not finite for {len(bad):,} of {len(rows):,} {what}, the first number "
            f"{bad[0]}. Its weights are damaged or its training diverged: take an earlier checkpoint."
        )


def _search_terms(
    documents: Sequence[str], queries: Sequence[str], k: int, progress: Progress
) -> tuple[Hits, dict[str, float]]:
    from nearfar.index.lexical import LexicalIndex

    if any(isinstance(item, Picture) for item in (*documents, *queries)):
        raise BadInput("bm25: it compares words, and this task has pictures. Evaluate a model with an image tower.")
    marks = [perf_counter()]
    progress("search", 0, len(queries))
    hits = LexicalIndex.build([str(row) for row in range(len(documents))], documents).search(queries, k)
    marks.append(perf_counter())
    progress("search", len(queries), len(queries))
    return hits, _spans(marks, ("search",))


def _spans(marks: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    return {name: after - before for name, before, after in zip(names, marks[:-1], marks[1:], strict=True)}

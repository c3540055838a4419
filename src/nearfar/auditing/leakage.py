"""Leakage: what the evaluation asks that training has already answered.

A document that is both in the pairs and in the corpus is normal (one collection); a query whose judged document it was trained with makes
the score a memory test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nearfar.auditing.material import Material
from nearfar.data.near_duplicates import near_twins
from nearfar.data.text import agree, counted, normalize, shorten
from nearfar.metrics import share_interval
from nearfar.types import Evidence, Finding, Severity, Task

FLOOR = 0.002
"""Lower bound of the share of queries from which what is less than certain is a warning."""


class Leaks(NamedTuple):
    """Row of the pairs -> query id of the task, by how it leaks."""

    answered: Mapping[int, str]
    """The pair holds the query and a document judged relevant to it, one of them word for word, the other word for word or nearly."""
    nearly: Mapping[int, str]
    """Both the pair's query and its positive are near copies of the task's (as are templated questions with templated answers about two things)."""
    asked: Mapping[int, str]
    """The pair holds the query word for word, with another answer."""
    near: Mapping[int, str]
    """The pair's query is a near copy of the task's, with another answer."""


def leaks(material: Material, task: Task) -> Leaks:
    """Every pair that says something about a query of the task."""
    ids = list(task.queries)
    exact: dict[str, list[str]] = {}
    for key, text in task.queries.items():
        exact.setdefault(normalize(text), []).append(key)
    asked = material.queries.distinct
    twins = near_twins(asked, list(task.queries.values()))
    corpus_of: dict[str, list[str]] = {}
    for key, text in task.corpus.items():
        corpus_of.setdefault(normalize(text), []).append(key)
    judged = sorted({d for grades in task.judgements.values() for d, grade in grades.items() if grade > 0})
    rows_by_query: dict[int, list[int]] = {}
    for row, number in enumerate(material.queries.number.tolist()):
        rows_by_query.setdefault(number, []).append(row)
    suspects = [
        (row, exact.get(normalize(text)) or [ids[twin]], normalize(text) in exact)
        for number, (text, twin) in enumerate(zip(asked, twins.tolist(), strict=True))
        if twin >= 0 or normalize(text) in exact
        for row in rows_by_query[number]
    ]
    near_document = near_twins([material.pairs[row].positive for row, _, _ in suspects], [task.corpus[d] for d in judged])
    answered: dict[int, str] = {}
    nearly: dict[int, str] = {}
    same: dict[int, str] = {}
    near: dict[int, str] = {}
    for (row, keys, is_exact), twin in zip(suspects, near_document.tolist(), strict=True):
        documents = corpus_of.get(normalize(material.pairs[row].positive), [])
        hit = next((k for k in keys if _answers(task, k, documents)), None)
        copy = next((k for k in keys if twin >= 0 and _answers(task, k, [judged[twin]])), None)
        if hit is not None or (copy is not None and is_exact):
            answered[row] = str(hit or copy)
        elif copy is not None:
            nearly[row] = copy
        elif is_exact:
            same[row] = keys[0]
        else:
            near[row] = keys[0]
    return Leaks(answered, nearly, same, near)


def _answers(task: Task, query: str, documents: Sequence[str]) -> bool:
    return any(task.judgements.get(query, {}).get(document, 0) > 0 for document in documents)


def check_leakage(material: Material) -> list[Finding]:
    """`leaked_answers` (critical), `leaked_queries`, `near_leaked_queries`, `shared_documents`: shares of the task's queries or documents, counted."""
    task = material.task
    if task is None:
        return []
    found = leaks(material, task)
    results: list[Finding] = []
    kinds: tuple[tuple[str, Mapping[int, str], Severity, str, str], ...] = (
        (
            "leaked_answers",
            found.answered,
            "critical",
            "are in the pairs with a document judged relevant to them (word for word, or nearly): their scores measure memory.",
            material.fix(),
        ),
        (
            "nearly_leaked_answers",
            found.nearly,
            "warning",
            "have near copies in the pairs, with a near copy of a document judged relevant to them.",
            "Look at the examples: where they are the same thing and not two things told by one template, " + material.fix(),
        ),
        (
            "leaked_queries",
            found.asked,
            "warning",
            "are in the pairs word for word, with another answer: the model has been told something about them.",
            material.fix(),
        ),
        (
            "near_leaked_queries",
            found.near,
            "info",
            "have a near copy among the queries of the pairs, with another answer (as templated questions have).",
            "Look at the examples: where they ask the same, hold them out by a common `group`.",
        ),
    )
    for code, rows, harm, what, remedy in kinds:
        queries = set(rows.values())
        if not queries:
            continue
        verb, _, rest = what.partition(" ")
        share = share_interval(len(queries), len(task.queries))
        severity: Severity = harm
        if severity == "warning" and share.low < FLOOR:
            severity = "info"
        results.append(
            Finding(
                code,
                "workflow",
                severity,
                f"{counted(len(queries), 'query')} of the task's {len(task.queries):,} ({share.mean:.1%}) {agree(len(queries), verb)} {rest}",
                len(queries),
                len(task.queries),
                share.mean,
                remedy,
                examples=tuple(
                    Evidence(
                        material.where[row],
                        f"{shorten(material.pairs[row].query, 60)} -> {shorten(material.pairs[row].positive, 40)} (query {key!r} of {task.name})",
                    )
                    for row, key in list(rows.items())[:3]
                ),
            )
        )
    return results + _shared_documents(material, task)


def _shared_documents(material: Material, task: Task) -> list[Finding]:
    mine = {normalize(text) for text in material.documents.distinct}
    shared = [key for key, text in task.corpus.items() if normalize(text) in mine]
    if not shared:
        return []
    share = len(shared) / len(task.corpus)
    rows = np.flatnonzero(
        np.isin(
            material.positives,
            [n for n, text in enumerate(material.documents.distinct) if normalize(text) == normalize(task.corpus[shared[0]])],
        )
    )
    return [
        Finding(
            "shared_documents",
            "workflow",
            "info",
            f"{counted(len(shared), 'document')} of the task's {len(task.corpus):,} ({share:.1%}) {agree(len(shared), 'are')} also in the pairs. "
            "That is normal where both come from one collection; their own queries must not be in both.",
            len(shared),
            len(task.corpus),
            share,
            "Nothing to do, unless the task is meant to show how the model does on documents it has not seen.",
            examples=material.show(rows.tolist(), query=False),
        )
    ]

"""Texts that look for pictures and pictures that look for texts: Recall@k both ways, ranks, and how the two kinds lie in one space.

Recall@k as the papers of image-text retrieval count it (Karpathy and Fei-Fei 2015; the protocol of COCO captions and Flickr30k): the share of
queries that find *any* of their partners among the first k, so an image with five captions is answered by one of them. In the names of
`nearfar.metrics` that is success@k; recall@k would be the share of all five.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nearfar.data.tasks import turn
from nearfar.errors import BadInput
from nearfar.evaluation.evaluate import Evaluation, check_finite, evaluate_rows
from nearfar.metrics.modalities import ModalityGap, first_ranks, modality_gap, nearness
from nearfar.metrics.ranking import parse_metric
from nearfar.metrics.shares import share_interval
from nearfar.metrics.significance import Interval, median_interval
from nearfar.types import Encoder, Evidence, Finding, Picture, Progress, Task, silent

METRICS = ("success@1", "success@5", "success@10")
"""Recall@1, 5 and 10 as image-text papers count them."""
_SAME = 0.99
"""Rows whose mean is at least so long are nearly one row."""
_HUB = 0.05
"""The share of all queries that one answer may be first for before it is called a hub."""


@dataclass(frozen=True, eq=False)
class Direction:
    """One kind asking for the other."""

    evaluation: Evaluation
    ranks: Int[np.ndarray, " q"]
    """The rank, from 1, of the first partner of each query of the evaluation, among all answers."""
    chance: Mapping[str, float]
    """What each metric would be on average if the answers were shuffled."""

    @property
    def median_rank(self) -> Interval:
        """The median rank with its 95 % interval."""
        return median_interval(self.ranks)

    def to_json(self) -> dict[str, Any]:
        """Scores, ranks and chance."""
        return {
            "queries": len(self.ranks),
            "metrics": self.evaluation.summary(),
            "median_rank": self.median_rank._asdict(),
            "chance": dict(self.chance),
        }


class Closeness(NamedTuple):
    """Mean similarities: of an item to its nearest partner, to its nearest stranger of the other kind, and to its nearest of its own kind."""

    partner: float
    other: float
    own: float


@dataclass(frozen=True, eq=False)
class ImageText:
    """How well texts find pictures and pictures texts, and what the space of the two looks like."""

    text_to_image: Direction
    image_to_text: Direction
    gap: ModalityGap
    pictures: Closeness
    texts: Closeness
    findings: list[Finding]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "text_to_image": self.text_to_image.to_json(),
            "image_to_text": self.image_to_text.to_json(),
            "modality_gap": self.gap._asdict(),
            "closeness": {"pictures": self.pictures._asdict(), "texts": self.texts._asdict()},
            "findings": [finding.to_json() for finding in self.findings],
        }


def is_image_text(task: Task) -> bool:
    """Whether one side of the task is pictures and the other texts."""
    kinds = [{isinstance(item, Picture) for item in side.values()} for side in (task.corpus, task.queries)]
    return kinds in ([{True}, {False}], [{False}, {True}])


def evaluate_image_text(
    encoder: Encoder, task: Task, *, name: str | None = None, metrics: Sequence[str] = METRICS, progress: Progress = silent
) -> ImageText:
    """Both directions of a task whose queries are texts and whose documents are pictures, or the other way round; every item is encoded once.

    Items without a partner ask nothing and are found among the answers. Raises `BadInput` where a side is mixed, and as `evaluate`.
    Memory: the rows of both kinds; the ranks take O(texts x pictures x d) time and a slab.
    """
    from nearfar.embedding import embed

    if not is_image_text(task):
        raise BadInput(
            f"task {task.name}: expected texts on one side and pictures on the other. Evaluate a task of one kind, or of mixed documents, with "
            "`evaluate`."
        )
    texts_ask = isinstance(next(iter(task.corpus.values())), Picture)
    asked = task if texts_ask else Task(task.name, task.queries, task.corpus, turn(task).judgements)
    pictures = embed(encoder, list(asked.corpus.values()), role="document", progress=progress, stage="pictures")
    texts = embed(encoder, list(asked.queries.values()), role="query", progress=progress, stage="texts")
    check_finite("pictures", pictures)
    check_finite("texts", texts)
    told = name or type(encoder).__name__
    return measure(texts, pictures, asked, name=told, metrics=metrics, model_fingerprint=encoder.fingerprint())


def measure(
    texts: Float[np.ndarray, "q d"],
    pictures: Float[np.ndarray, "n d"],
    task: Task,
    *,
    name: str,
    metrics: Sequence[str] = METRICS,
    model_fingerprint: str | None = None,
) -> ImageText:
    """As `evaluate_image_text`, with a row for each query (text) and each document (picture) of the task, in its order."""
    back = turn(task, f"{task.name} turned")
    picture_row = {key: row for row, key in enumerate(task.corpus)}
    text_row = {key: row for row, key in enumerate(task.queries)}
    asking = pictures[[picture_row[key] for key in back.queries]]
    forward = _direction(texts, pictures, task, name, metrics, model_fingerprint)
    backward = _direction(asking, texts, back, name, metrics, model_fingerprint)
    # both kinds by the rows that have partners
    judged = [key for key in task.queries if any(grade > 0 for grade in task.judgements.get(key, {}).values())]
    of_text = [[picture_row[key] for key, grade in task.judgements[query].items() if grade > 0] for query in judged]
    of_picture = [[text_row[key] for key in back.judgements[query]] for query in back.queries]
    near_pictures = nearness(asking, texts, of_picture)
    near_texts = nearness(texts[[text_row[key] for key in judged]], pictures, of_text)
    findings = [
        *_collapsed("pictures", pictures),
        *_collapsed("texts", texts),
        *_own_kind("pictures", near_pictures.partner, near_pictures.own, list(back.queries.values())),
        *_own_kind("texts", near_texts.partner, near_texts.own, [task.queries[key] for key in judged]),
        *_hubs("picture", forward.evaluation, task.corpus),
        *_hubs("text", backward.evaluation, task.queries),
    ]
    return ImageText(
        forward,
        backward,
        modality_gap(pictures, texts),
        Closeness(*(_mean(values) for values in (near_pictures.partner, near_pictures.other, near_pictures.own))),
        Closeness(*(_mean(values) for values in (near_texts.partner, near_texts.other, near_texts.own))),
        findings,
    )


def chance_of(metric: str, relevant: Sequence[int], documents: int) -> float:
    """The mean success@k of shuffled answers, where query i has `relevant[i]` partners among `documents`: 1 - C(n - r, k) / C(n, k).

    Raises `BadInput` for another metric.
    """
    kind, k = parse_metric(metric)
    if kind != "success":
        raise BadInput(f"metric {metric}: chance is known for success@k alone.")
    logs = [math.lgamma(n + 1) for n in range(documents + 1)]

    def missed(r: int) -> float:
        if documents - r < k:
            return 0.0
        return math.exp(logs[documents - r] - logs[documents - r - k] - logs[documents] + logs[documents - k])

    return 1 - sum(count * missed(r) for r, count in Counter(relevant).items()) / max(len(relevant), 1)


def _direction(
    queries: np.ndarray, documents: np.ndarray, task: Task, name: str, metrics: Sequence[str], fingerprint: str | None
) -> Direction:
    depth = max(100, *(parse_metric(metric).k for metric in metrics))
    found = evaluate_rows(queries, documents, task, name=name, metrics=metrics, depth=depth, model_fingerprint=fingerprint)
    # as `evaluate` breaks ties: by descending id
    keys = sorted(task.corpus, reverse=True)
    place = {key: row for row, key in enumerate(task.corpus)}
    row_of = {key: row for row, key in enumerate(keys)}
    asked = {key: row for row, key in enumerate(task.queries)}
    partners = [[row_of[key] for key, grade in task.judgements[query].items() if grade > 0] for query in found.query_ids]
    ranks = first_ranks(queries[[asked[query] for query in found.query_ids]], documents[[place[key] for key in keys]], partners)
    counts = [len(rows) for rows in partners]
    chance = {name: chance_of(name, counts, len(keys)) for name in found.metrics if name.startswith("success@")}
    return Direction(found, ranks, chance)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0


def _collapsed(what: str, rows: np.ndarray) -> list[Finding]:
    """Whether all rows of a kind point one way."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    middle = (rows / np.where(lengths > 0, lengths, 1)).mean(axis=0)
    if len(rows) < 2 or float(np.linalg.norm(middle)) < _SAME:
        return []
    said = f"the rows of all {what} are nearly one row (their mean has length {float(np.linalg.norm(middle)):.3f}): nothing can be told apart"
    remedy = "Train with a lower learning rate or a larger batch, and look at the loss: it should fall below that of guessing."
    return [Finding("collapsed", "model", "critical", said, len(rows), len(rows), 1.0, remedy)]


def _own_kind(what: str, partner: np.ndarray, own: np.ndarray, items: Sequence[str]) -> list[Finding]:
    """Items that are nearer to a stranger of their own kind than to any partner."""
    nearer = np.flatnonzero(own > partner)
    if not len(nearer):
        return []
    share = share_interval(len(nearer), len(partner))
    other = "texts" if what == "pictures" else "pictures"
    said = f"{what} nearer to some other of the {what} than to any of their own {other}: in a search over both kinds together, {what} find {what} first"
    remedy = (
        "Search one kind at a time (an index of pictures alone), and compare no score of one kind with a score of the other."
    )
    worst = nearer[np.argsort(partner[nearer] - own[nearer])][:3]
    shown = tuple(Evidence(str(items[i]), f"partner {partner[i]:.3f}, own kind {own[i]:.3f}") for i in worst)
    return [
        Finding(
            f"{what}_nearer_to_{what}",
            "model",
            "info",
            said,
            len(nearer),
            len(partner),
            share.mean,
            remedy,
            share.low,
            share.high,
            shown,
        )
    ]


def _hubs(what: str, found: Evaluation, answers: Mapping[str, str]) -> list[Finding]:
    """An answer that is first for many queries it has nothing to do with."""
    firsts = Counter(row[0] for row in found.ranked if row)
    if not firsts:
        return []
    key, count = firsts.most_common(1)[0]
    share = share_interval(count, len(found.ranked))
    if share.low < max(_HUB, 5 / len(answers)):
        return []
    said = f"one {what} is the first answer to {count:,} of {len(found.ranked):,} queries: a hub"
    remedy = "Look at it: blank and blurred pictures and texts without meaning become hubs. Leave them out, or train longer."
    shown = (Evidence(key, answers[key][:80]),)
    return [
        Finding("hub", "model", "warning", said, count, len(found.ranked), share.mean, remedy, share.low, share.high, shown)
    ]

"""Classes by their names alone: a picture gets the class whose name, put into prompts, is nearest (Radford 2021, arXiv 2103.00020, 3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nearfar.errors import BadConfig, BadInput
from nearfar.evaluation.evaluate import Evaluation, evaluate_rows
from nearfar.metrics.shares import share_interval
from nearfar.metrics.significance import Interval
from nearfar.types import Encoder, Progress, Task, silent

TEMPLATES = ("a photo of a {}",)
"""CLIP's own prompt where nothing is known of the pictures."""


class ClassScore(NamedTuple):
    """How often pictures of a class are taken for it, and what they are taken for instead most often ("" where nothing)."""

    name: str
    accuracy: Interval
    pictures: int
    instead: str


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Pictures classified by the names of the classes. The evaluation's success@1 is the accuracy; it can be kept and compared."""

    evaluation: Evaluation
    classes: list[ClassScore]

    @property
    def accuracy(self) -> Interval:
        """The share of pictures whose nearest class is theirs, with Wilson's interval."""
        right = self.evaluation.metrics["success@1"]
        return share_interval(int(right.sum()), len(right))

    def to_json(self) -> dict[str, Any]:
        """Accuracy, all metrics, and each class."""
        return {
            "accuracy": self.accuracy._asdict(),
            "metrics": self.evaluation.summary(),
            "classes": [found._asdict() | {"accuracy": found.accuracy._asdict()} for found in self.classes],
        }


def class_rows(
    encoder: Encoder, names: Sequence[str], templates: Sequence[str] = TEMPLATES, *, progress: Progress = silent
) -> Float[np.ndarray, "c d"]:
    """A unit row per class: the rows of its name in each of `templates` (`{}` is the name), made unit, averaged, made unit again.

    Raises `BadConfig` for no template, or one without exactly one `{}`; `BadInput` where all rows of a class cancel out.
    """
    from nearfar.embedding import embed

    if not templates or any(template.count("{}") != 1 for template in templates):
        raise BadConfig(
            f"templates: each needs one {{}} for the name, found {list(templates)}. Write one as 'a photo of a {{}}'."
        )
    texts = [template.replace("{}", name) for name in names for template in templates]
    rows = embed(encoder, texts, role="query", progress=progress, stage="classes").reshape(len(names), len(templates), -1)
    mean = _unit(rows).mean(axis=1)
    if (wrong := np.flatnonzero(~(np.linalg.norm(mean, axis=1) > 0))).size:
        raise BadInput(f"class {names[int(wrong[0])]!r}: its prompts have no row. The text encoder knows none of its words.")
    return _unit(mean)


def classify(
    encoder: Encoder,
    pictures: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    names: Sequence[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
    name: str | None = None,
    progress: Progress = silent,
) -> ZeroShot:
    """Give each picture (id -> `Picture`) the class whose prompts are nearest, and compare with `labels` (id -> class).

    `names` are the classes to choose among (default: those of the labels). Underscores of a name are spaces in its prompts.
    Raises `BadInput` for no picture, a picture without label, fewer than two classes; `BadConfig` as `class_rows`.
    """
    from nearfar.embedding import embed

    classes = sorted(set(names or labels.values()))
    if missing := next((key for key in pictures if labels.get(key) not in classes), None):
        raise BadInput(f"picture {missing!r}: its class is {labels.get(missing)!r}, which is none of {', '.join(classes)}.")
    if not pictures or len(classes) < 2:
        raise BadInput(
            f"found {len(pictures):,} pictures of {len(classes):,} classes. Give a folder with a subfolder for each class."
        )
    prompts = class_rows(encoder, [found.replace("_", " ") for found in classes], templates, progress=progress)
    rows = embed(encoder, list(pictures.values()), role="document", progress=progress, stage="pictures")
    task = Task(
        "classes",
        {found: found for found in classes},
        dict(pictures),
        {key: {labels[key]: 1} for key in pictures},
    )
    metrics = ["success@1", *(["success@5"] if len(classes) > 5 else [])]
    told = name or type(encoder).__name__
    found = evaluate_rows(rows, prompts, task, name=told, metrics=metrics, model_fingerprint=encoder.fingerprint())
    return ZeroShot(found, [_score_class(found, labels, which) for which in classes if which in labels.values()])


def _score_class(found: Evaluation, labels: Mapping[str, str], which: str) -> ClassScore:
    firsts = [row[0] for key, row in zip(found.query_ids, found.ranked, strict=True) if labels[key] == which]
    wrong = Counter(first for first in firsts if first != which).most_common(1)
    return ClassScore(which, share_interval(firsts.count(which), len(firsts)), len(firsts), wrong[0][0] if wrong else "")


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)

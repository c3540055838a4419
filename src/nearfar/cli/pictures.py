"""What the commands do where pictures are: index a folder of them, search with one, judge pictures with texts and by classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.data.text import agree, counted
from nearfar.errors import BadConfig, BadInput, NearfarError
from nearfar.types import Picture

if TYPE_CHECKING:
    from nearfar.data.picture_folder import Broken
    from nearfar.evaluation import ImageText
    from nearfar.evaluation.zero_shot import ZeroShot
    from nearfar.index.approximate import ApproximateIndex
    from nearfar.index.exact import ExactIndex
    from nearfar.metrics import Interval
    from nearfar.retrieval import SearchResult, Update
    from nearfar.types import Encoder, Progress, Task

SHOWN = 5
"""Broken pictures named one by one; of the others the number."""


@dataclass(frozen=True)
class Indexed:
    """An index that was made or brought up to date, and the pictures that could not be read."""

    index: ExactIndex | ApproximateIndex
    update: Update | None
    """None where it was made anew."""
    broken: Sequence[Broken]


def read_documents(corpus: Path) -> dict[str, str]:
    """The documents of a corpus file, of a BEIR folder, or the pictures below any other folder."""
    from nearfar.data.picture_folder import list_pictures
    from nearfar.data.tasks import read_corpus

    if corpus.is_dir() and not (corpus / "corpus.jsonl").exists():
        return dict(list_pictures(corpus))
    return read_corpus(corpus / "corpus.jsonl" if corpus.is_dir() else corpus)


def index_documents(
    documents: Mapping[str, str], encoder: Encoder, out: Path, *, kind: str, name: str, progress: Progress
) -> Indexed:
    """An index of these documents: the one in `out` brought up to date where this model made it, else a new one. Nothing is saved yet.

    Pictures that cannot be read are left out and told. Raises `BadInput` where none can be read.
    """
    from nearfar.data.picture_folder import Broken, Readable, look_at
    from nearfar.retrieval import build_index, keep_picture, unchanged, update_index

    before = _same_index(out, encoder, kind)
    pictures = {key: item for key, item in documents.items() if isinstance(item, Picture)}
    kept: dict[str, Picture] = {}
    gone: list[Broken] = []
    for key, picture in pictures.items():
        try:
            kept[key] = keep_picture(picture)
        except BadInput as error:
            gone.append(Broken(picture, str(error)))
    known = unchanged(before, kept) if before is not None else frozenset()
    found = (
        look_at(kept, _size(encoder), only=[key for key in kept if key not in known], progress=progress)
        if pictures
        else Readable({}, [])
    )
    broken = [*gone, *found.broken]
    if pictures and not found.pictures and len(pictures) == len(documents):
        raise BadInput(f"none of the {len(pictures):,} pictures can be read. The first: {broken[0].why}")
    whole = {
        key: found.pictures.get(key, item) for key, item in documents.items() if key not in pictures or key in found.pictures
    }
    if before is None:
        made = build_index(encoder, whole, kind=kind, name=name, progress=progress)  # pyright: ignore[reportArgumentType]
        return Indexed(made, None, broken)  # pyright: ignore[reportArgumentType]
    before.model = replace(before.model, name=name)  # where the model is found now
    return Indexed(before, update_index(before, encoder, whole, progress=progress), broken)


def query_words(encoder: Encoder | None) -> str:
    """How an index of this model (None: BM25) is asked, as a command says it: with a picture where there is no text tower."""
    from nearfar.encoders import ImageEncoder

    return "--image PICTURE" if isinstance(encoder, ImageEncoder) else "'your query'"


def _size(encoder: Encoder) -> int:
    """The pixels of a side that the encoder sees. Raises `BadInput` where it sees none."""
    from nearfar.encoders import image_of

    image = image_of(encoder)
    if image is None:
        raise BadInput(
            "these are pictures, and this model reads text. Choose one with an image tower: clip:IMAGE+TEXT, a CLIP, a run."
        )
    return image.size


def _same_index(out: Path, encoder: Encoder, kind: str) -> ExactIndex | ApproximateIndex | None:
    """The index in `out`, where it is one of this kind made by this model; another is replaced, as what is damaged is."""
    from nearfar.index import LexicalIndex, open_index

    if not out.is_dir():
        return None
    try:
        found = open_index(out)
    except NearfarError:
        return None
    if isinstance(found, LexicalIndex) or found.kind != kind or found.model.fingerprint != encoder.fingerprint():
        return None
    return found


def tell_broken(broken: Sequence[Broken]) -> list[str]:
    """The pictures that could not be read: the first few with their reasons, then how many more."""
    if not broken:
        return []
    more = len(broken) - SHOWN
    return [
        f"{counted(len(broken), 'picture')} cannot be read and {agree(len(broken), 'were')} left out:",
        *(f"  {each.why}" for each in broken[:SHOWN]),
        *([f"  and {more:,} more (all of them with --json)"] if more > 0 else []),
    ]


def tell_update(update: Update) -> str:
    """What came of an index that was there."""
    return f"{update.kept:,} kept, {update.added:,} new, {update.changed:,} changed, {update.removed:,} gone"


def read_query_pictures(paths: Sequence[Path]) -> list[Picture]:
    """The pictures to search with. Raises `BadInput` naming one that is not there."""
    for path in paths:
        if not path.is_file():
            raise BadInput(
                f"--image {path}: {'this is no file' if path.exists() else 'no such file'}. Give a picture to search with."
            )
    return [Picture(path) for path in paths]


def told_document(item: str) -> dict[str, Any]:
    """A found document for `--json`."""
    return {"image": str(item), "file": str(item.file)} if isinstance(item, Picture) else {"text": item}


def write_page(out: Path, queries: Sequence[str], results: Sequence[Sequence[SearchResult]], index: Path) -> None:
    """`--html`: what was found, as one page."""
    from nearfar.report import Found, Searched, write_results

    if out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"--html {out}: the page is HTML. Give a name that ends in .html.")
    found = [
        Searched(query, [Found(hit.id, hit.score, hit.text) for hit in hits])
        for query, hits in zip(queries, results, strict=True)
    ]
    write_results(out, found, index=str(index))


def tell_image_text(found: ImageText) -> str:
    """Both directions with intervals and chance, the median rank, the gap, and what is worth knowing."""
    from nearfar.metrics.ranking import parse_metric

    lines = []
    heads = [f"Recall@{parse_metric(name).k}" for name in found.text_to_image.evaluation.metrics]
    rows = [["", *heads, "median rank", "queries"]]
    for title, direction in (("text -> picture", found.text_to_image), ("picture -> text", found.image_to_text)):
        scores = direction.evaluation.summary()
        median = direction.median_rank
        rows.append(
            [
                title,
                *(f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" for score in scores.values()),
                f"{median.mean:g} [{median.low:g}, {median.high:g}]",
                f"{len(direction.ranks):,}",
            ]
        )
        rows.append(
            ["  chance", *(f"{direction.chance[name]:.3f}" if name in direction.chance else "" for name in scores), "", ""]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    gap = found.gap
    lines += [
        "",
        "Recall@k: the share of queries that find any of their partners among the first k; 95 % intervals over queries.",
        f"Modality gap {gap.distance:.3f} (chance alone leaves {gap.by_chance:.3f}): the distance of the means of pictures and texts.",
        f"Cosines, pictures: own text {found.pictures.partner:.3f}, another's text {found.pictures.other:.3f}, another picture {found.pictures.own:.3f}.",
        f"Cosines, texts: own picture {found.texts.partner:.3f}, another's picture {found.texts.other:.3f}, another text {found.texts.own:.3f}.",
    ]
    for finding in found.findings:
        lines.append(f"{finding.severity}: {finding.share:.0%} of {finding.total:,}: {finding.what}. {finding.remedy}")
    return "\n".join(lines)


def read_classes(folder: Path) -> tuple[dict[str, Picture], dict[str, str]]:
    """Pictures of a folder with a subfolder for each class: key -> picture, key -> class (the first part of its path)."""
    from nearfar.data.picture_folder import list_pictures

    pictures = list_pictures(folder)
    if loose := next((key for key in pictures if "/" not in key), None):
        raise BadInput(f"{folder / loose}: it lies in no class. Give a folder with a subfolder of pictures for each class.")
    return pictures, {key: key.split("/")[0] for key in pictures}


@dataclass(frozen=True)
class Classified:
    """What `--classes` found: by the names of the classes, by neighbours and a linear layer where pictures to learn from were given."""

    zero_shot: ZeroShot | None
    probes: Mapping[str, Interval]
    counts: tuple[int, int]
    """Pictures judged, and classes."""
    broken: Sequence[Broken]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            **(self.zero_shot.to_json() if self.zero_shot else {}),
            "probes": {name: found._asdict() for name, found in self.probes.items()},
            "broken": [{"picture": str(each.picture), "why": each.why} for each in self.broken],
        }


def evaluate_classes(model: str, folder: Path, known: Path | None, templates: Sequence[str], progress: Progress) -> Classified:
    """`nearfar evaluate MODEL --classes FOLDER [--known FOLDER]`."""
    from nearfar.data.picture_folder import look_at
    from nearfar.encoders import ImageEncoder, load_encoder
    from nearfar.evaluation.zero_shot import TEMPLATES, classify

    if model == "bm25":
        raise BadConfig("bm25 sees no pictures. Give a model with an image tower.")
    pictures, labels = read_classes(folder)
    encoder = load_encoder(model, progress=progress)
    found = look_at(pictures, _size(encoder), progress=progress)
    zero_shot = None
    if not isinstance(encoder, ImageEncoder):
        names = sorted(set(labels.values()))
        zero_shot = classify(
            encoder, found.pictures, labels, names=names, templates=templates or TEMPLATES, name=model, progress=progress
        )
    elif known is None or templates:
        raise BadConfig(
            f"{model}: it reads no text, so the names of classes tell it nothing. Give pictures to learn from: --known FOLDER."
        )
    probes, broken = _probe(encoder, found.pictures, labels, known, progress) if known else ({}, ())
    return Classified(zero_shot, probes, (len(found.pictures), len(set(labels.values()))), [*found.broken, *broken])


def _probe(
    encoder: Encoder, pictures: Mapping[str, Picture], labels: Mapping[str, str], known: Path, progress: Progress
) -> tuple[dict[str, Interval], Sequence[Broken]]:
    """The accuracy of the votes of 20 and 200 neighbours among the known pictures, and of a linear layer fitted to them."""
    import numpy as np

    from nearfar.data.picture_folder import look_at
    from nearfar.embedding import embed
    from nearfar.evaluation import knn_accuracy, linear_probe
    from nearfar.metrics import share_interval

    others, classes = read_classes(known)
    found = look_at(others, _size(encoder), progress=progress)
    number = {name: place for place, name in enumerate(sorted({*classes.values(), *labels.values()}))}
    rows = embed(encoder, list(pictures.values()), progress=progress, stage="pictures")
    bank = embed(encoder, list(found.pictures.values()), progress=progress, stage="known pictures")
    asked = np.array([number[labels[key]] for key in pictures])
    told = np.array([number[classes[key]] for key in found.pictures])
    right = {f"{k} neighbours": knn_accuracy(rows, asked, bank, told, k=k) for k in (20, 200) if k <= len(bank)}
    right["linear layer"] = linear_probe(rows, asked, bank, told)
    return {name: share_interval(int(each.sum()), len(each)) for name, each in right.items()}, found.broken


def tell_classes(found: Classified) -> str:
    """The accuracies, then the classes by their names, the worst first."""
    pictures, classes = found.counts
    lines = [f"{pictures:,} pictures of {classes:,} classes (chance {1 / classes:.3f})"]
    told = {"names of the classes": found.zero_shot.accuracy} if found.zero_shot else {}
    for name, accuracy in (told | dict(found.probes)).items():
        lines.append(f"accuracy by {name:<22} {accuracy.mean:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]")
    for score in sorted(
        found.zero_shot.classes if found.zero_shot else (), key=lambda score: (score.accuracy.mean, score.name)
    ):
        instead = f"  most often taken for {score.instead}" if score.instead else ""
        interval = f"{score.accuracy.mean:.3f} [{score.accuracy.low:.3f}, {score.accuracy.high:.3f}]"
        lines.append(f"  {score.name[:30]:<30} {interval} of {score.pictures:,}{instead}")
    return "\n".join(lines)


def evaluate_pictures(model: str, task: Task, progress: Progress) -> ImageText:
    """`nearfar evaluate MODEL --task TASK` where one side of the task is pictures and the other texts."""
    from nearfar.encoders import load_encoder
    from nearfar.evaluation import evaluate_image_text

    if model == "bm25":
        raise BadInput("bm25: it compares words, and this task has pictures. Evaluate a model with an image tower.")
    return evaluate_image_text(load_encoder(model, progress=progress), task, name=model, progress=progress)


def kept_as(out: Path, found: ImageText) -> dict[str, Any]:
    """Keep both directions for `compare`: OUT for texts that look for pictures, OUT with `.turned` for the other; returns the paths."""
    other = out.with_name(f"{out.stem}.turned{out.suffix}")
    found.text_to_image.evaluation.save(out)
    found.image_to_text.evaluation.save(other)
    return {"text_to_image": os.fspath(out), "image_to_text": os.fspath(other)}

"""The model card: what a model was trained on and how, whether that is shown to have helped, and how to load it.

The sections follow Model Cards (Mitchell 2019, arXiv 1810.03993); the YAML head is what the hub reads. What no record tells is said to be
unknown; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.encoders import (
    AnyEncoder,
    ImageEncoder,
    ImageTextEncoder,
    TwoTowerEncoder,
    image_of,
    is_static,
    load_encoder,
)
from nearfar.errors import BadInput
from nearfar.exporting.origin import MINILM, Origin, base_model, read_origin
from nearfar.exporting.record import shown_name
from nearfar.exporting.snippets import how_to_load, how_to_load_images
from nearfar.files import atomic_file
from nearfar.metrics.ranking import label

_VERDICTS = {
    "improved": "**It is shown to be better than the model it started from** on queries held out of training (p < 0.05).",
    "not shown": "**It is not shown to be better than the model it started from**: on queries held out of training the difference may be chance.",
    "worse": "**It is worse than the model it started from** on queries held out of training (p < 0.05).",
    "not judged": "**It was not judged**: no queries were held out of training, so nothing is known about whether training helped.",
}
_SETTINGS = {
    "loss.also": "losses beside it, and their weights",
    "loss.directions": "directions",
    "loss.dims": "Matryoshka: trained to be cut to",
    "loss.guide": "guide, which says what is no negative",
    "loss.teacher": "teacher of the loss",
    "temperature": "temperature",
    "learn_temperature": "temperature learned",
    "batch_size": "pairs a batch",
    "epochs": "epochs",
    "learning_rate": "highest learning rate",
    "warmup": "share of the steps in warm-up",
    "mixture.weights": "share of the steps by source",
    "mixture.losses": "losses by source",
    "lora.rank": "rank of the adapters (LoRA), merged into the weights",
    "compute.precision": "precision of the encoder's multiplies",
    "seed": "seed",
}
"""Setting -> what it is called on the card; one that a run did not record or left out is not on it."""


def write_card(run: Path | str, *, encoder: AnyEncoder | None = None, language: str | None = None) -> Path:
    """Write `model/README.md` of a run, atomically, and return its path; `encoder` is the run's model where it is open already.

    Raises `BadInput` where there is no run with a model, `Damaged` where a record is torn.
    """
    run = Path(run)
    origin = read_origin(run)
    if origin is None or not (run / "model").is_dir():
        raise BadInput(f"{run}: there is no run with a model here. Give the folder of a run (nearfar train PAIRS -o RUN).")
    text = card_text(
        encoder or load_encoder(run / "model"), run.resolve().name, origin, load=f"{run.name}/model", language=language
    )
    with atomic_file(run / "model" / "README.md", "w") as handle:
        handle.write(text)
    return run / "model" / "README.md"


def card_text(
    encoder: AnyEncoder,
    name: str,
    origin: Origin | None,
    *,
    load: str,
    language: str | None = None,
    dim: int | None = None,
    onnx: str | None = None,
    table: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown with its YAML head. `load` is the folder named in the examples; `onnx` (`onnx` or `onnx-int8`) tells of a
    graph, `table` (`teacher`, `frequencies`) of a token table made from the model that `origin` tells of."""
    root = base_model(name, origin)
    # what a run was trained on may be of another language than its root
    known = language or ("en" if root == MINILM and origin is None else None)
    parts = [
        _head(known, root, onnx, sees=image_of(encoder) is not None),
        f"# {Path(load).parts[0] if load else name}",
        _what(encoder, name, origin, dim, onnx, table),
        "## Did training help?",
        *([f"This is about the teacher, `{table['teacher']}`, not about the table."] if table else []),
        *_scores(origin),
        "## Trained on",
        *_data(origin),
        "## Trained how",
        *_training(origin),
        "## Where it comes from",
        *_lineage(origin, name, root),
        "## How to load it",
        *_loading(encoder, load, onnx),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(encoder, origin, known, dim, onnx)),
        "## Licence",
        "_To be filled in by whoever publishes this model; the base model and the data may bind it._",
    ]
    return "\n\n".join(parts) + "\n"


def _loading(encoder: AnyEncoder, load: str, onnx: str | None) -> list[str]:
    if image_of(encoder) is not None:
        return how_to_load_images(load, texts=isinstance(encoder, ImageTextEncoder))
    return how_to_load(load, onnx, special=not is_static(encoder))


def _head(language: str | None, root: str | None, onnx: str | None, *, sees: bool) -> str:
    kinds = ["image-feature-extraction"] if sees else ["sentence-transformers", "sentence-similarity", "feature-extraction"]
    tags = [*kinds, "nearfar", *(["onnx"] if onnx else [])]
    # JSON texts are YAML texts
    lines = ["---", *([f"language: {json.dumps(language)}"] if language else [])]
    lines += [
        *([] if sees else ["library_name: sentence-transformers"]),
        f"pipeline_tag: {'image-feature-extraction' if sees else 'sentence-similarity'}",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    lines += [f"base_model: {json.dumps(root)}"] if root else []
    return "\n".join([*lines, "# license: to be filled in", "---"])


def _what(
    encoder: AnyEncoder, name: str, origin: Origin | None, dim: int | None, onnx: str | None, table: Mapping[str, Any] | None
) -> str:
    kinds = {TwoTowerEncoder: "pair of encoders", ImageEncoder: "network", ImageTextEncoder: "pair of encoders"}
    kind = "token table" if is_static(encoder) else kinds.get(type(encoder), "transformer")
    items = {ImageEncoder: "pictures", ImageTextEncoder: "pictures and texts"}.get(type(encoder), "texts")
    rows = f"rows of {encoder.dim} numbers{', of unit length' if encoder.normalize else ''}"
    told = [f"A {kind} that turns {items} into {rows}, so that {items} that belong together lie near each other."]
    if origin is not None and table is None:
        told.append(f"Trained by contrast with nearfar, run `{name}`.")
    if table is not None:
        weights = f"in {table['texts']:,} given texts and after Zipf's law" if table.get("texts") else "after Zipf's law"
        told.append(
            f"Made from `{table['teacher']}` without training: its token rows, reduced, weighted by rarity ({weights})."
        )
    if dim is not None:
        told.append(f"Rows are cut to the first {dim} dimensions and made unit again.")
    if onnx is not None:
        told.append("This folder holds it as an ONNX graph" + (", its weights in int8." if onnx == "onnx-int8" else "."))
    return " ".join(told)


def _scores(origin: Origin | None) -> list[str]:
    if origin is None:
        return ["Not known: there is no record of a run beside this model. Measure it: `nearfar evaluate FOLDER --task TASK`."]
    metrics = origin.metrics
    if metrics is None:
        return ["Not known: the run had not ended when this was written."]
    told = [_VERDICTS.get(str(metrics.get("verdict")), _VERDICTS["not judged"])]
    # the first of its sentences is the verdict with its figures, which stand below
    told += [str(sentence) for sentence in (metrics.get("conclusion") or [])[1:]]
    told += [f"- {reason['found']}" for reason in metrics.get("reasons") or []]
    systems = metrics.get("systems") or {}
    names = list(dict.fromkeys(metric for scores in systems.values() for metric in scores))
    if names:
        rows = [["", *(label(metric) for metric in names)]]
        rows += [[_SYSTEMS.get(system, system), *(_cell(scores.get(m)) for m in names)] for system, scores in systems.items()]
        told.append(_table(rows))
    told += [
        f"{label(c['metric'])}: {c['difference']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}], "
        f"{'p < 0.001' if c['p'] < 0.001 else 'p = ' + format(c['p'], '.3f')}; {c['better']:,} queries better, {c['worse']:,} worse."
        for c in metrics.get("comparisons") or []
    ]
    asked = origin.record.get("queries", {}).get("task")
    if names:
        told.append(f"Means and 95 % intervals over {f'{asked:,} ' if asked else ''}queries.")
    return told


_SYSTEMS = {"start": "the model it started from", "trained": "this model"}


def _data(origin: Origin | None) -> list[str]:
    if origin is None:
        return ["Not known: there is no record of a run beside this model."]
    record, pairs = origin.record, origin.record.get("identity", {}).get("pairs", {})
    told = [
        f"{record.get('trained_on', 0):,} pairs of a query and a text that belongs to it; {record.get('held_out', 0):,} more were held out."
    ]
    files = [[Path(path).name, str(content)] for path, content in record.get("inputs", {}).items()]
    if pairs.get("content"):
        files.append([f"all {pairs.get('count', 0):,} pairs, as read", pairs["content"]])
    return [*told, _table([["file", "SHA-256"], *files])] if files else told


def _training(origin: Origin | None) -> list[str]:
    if origin is None:
        return ["Not known: there is no record of a run beside this model."]
    config, metrics = origin.config, origin.metrics or {}
    loss = config.get("loss") or {}
    facts = [["loss", f"`{loss.get('name', 'info_nce')}`" if isinstance(loss, Mapping) else str(loss)]]
    found = {meaning: _setting(config, key) for key, meaning in _SETTINGS.items()}
    facts += [[meaning, shown_name(str(value))] for meaning, value in found.items() if value not in (None, False, [], {})]
    if size := config.get("batch_size"):
        facts.append(
            [
                "negatives per query",
                f"up to {size - 1:,} positives of others in its batch, and the batch's hard negatives, if any",
            ]
        )
    facts += [
        [meaning, f"{metrics[key]:,}"]
        for key, meaning in (("steps", "steps"), ("best_step", "step of these weights"))
        if key in metrics
    ]
    told = [_table([["setting", "value"], *facts])]
    if metrics.get("best_step") == 0:
        told.append("**These weights are those it started from**: no step of training scored higher on the queries that chose.")
    machine = origin.record.get("machine", {})
    versions = [
        f"{key} {machine[key]}" for key in ("nearfar", "torch", "transformers", "tokenizers", "python") if machine.get(key)
    ]
    return [*told, *([f"Made with {', '.join(versions)}."] if versions else [])]


def _lineage(origin: Origin | None, name: str, root: str | None) -> list[str]:
    if origin is None:
        return [f"Exported from `{name}`" + (f", which is [{root}](https://huggingface.co/{root})." if root else ".")]
    lines = []
    for ancestor in origin.ancestors:
        kind = f"run `{ancestor.name}` (its verdict: {ancestor.verdict})" if ancestor.verdict else f"`{ancestor.name}`"
        changed = "" if ancestor.is_same or ancestor.verdict is None else "; what it holds now is not known to be the same"
        lines.append(f"- {'then ' if lines else ''}{kind}, fingerprint `{ancestor.fingerprint}`{changed}")
    told = [f"Run `{origin.run.resolve().name}` started from:", "\n".join(lines)]
    stage = {key: value for key, value in (origin.record.get("lineage") or {}).items() if isinstance(value, (str, int))}
    return [*told, *(["It is a stage of several: " + ", ".join(f"{k} {v}" for k, v in stage.items()) + "."] if stage else [])]


def _limits(encoder: AnyEncoder, origin: Origin | None, language: str | None, dim: int | None, onnx: str | None) -> list[str]:
    towers = [encoder.query, encoder.document] if isinstance(encoder, TwoTowerEncoder) else [encoder]
    lengths = [tower.max_length for tower in towers if tower.max_length is not None]
    image = image_of(encoder)
    seen = [] if image is None else [f"Of a picture its middle square counts, at {image.size} x {image.size} pixels."]
    told = (
        seen
        if isinstance(encoder, ImageEncoder)
        else [
            *seen,
            f"Texts are cut to {min(lengths):,} tokens; what comes after does not count."
            if lengths
            else "Texts are read whole.",
        ]
    )
    if is_static(encoder):
        told.append("A text is the mean of its tokens: the order of words changes nothing.")
    if origin is None:
        told.append("How well it does on any task is not known here.")
    else:
        told.append(
            "Its scores are of the queries above: on other topics, other kinds of query or other languages it may do worse than the start."
        )
        told.append("Intervals are over queries; another seed of training would move the scores as well.")
    if dim is not None:
        told.append("The scores above were measured before the rows were cut. Measure again what you use.")
    if onnx == "onnx-int8":
        told.append("In int8 a row depends a little on what else is in its batch; `export.json` has the measured cosines.")
    told.append("The language is not recorded." if language is None else f"Language: {language}.")
    return told


def _setting(config: Mapping[str, Any], name: str) -> Any:
    found: Any = config
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _cell(found: Mapping[str, float] | None) -> str:
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rest])

"""`nearfar export` and `nearfar distill`: a trained model carried to where it is used. Heavy imports are inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from nearfar.errors import BadConfig

if TYPE_CHECKING:
    from nearfar.encoders.adapt import AnyEncoder
    from nearfar.evaluation import Comparison, Evaluation
    from nearfar.exporting import Exported
    from nearfar.types import Progress, Task

TARGETS = ("onnx", "onnx-int8", "sentence-transformers")


def export(
    model: str,
    out: Path,
    *,
    to: str,
    dim: int | None,
    texts: Path | None,
    language: str | None,
    as_json: bool,
) -> int:
    """`nearfar export`: exit 1 where the export does not compute what the model computes (nothing is left of it then)."""
    if to not in TARGETS:
        raise BadConfig(f"--to {to}: expected {', '.join(TARGETS)}.")
    from nearfar.cli.progress import shown
    from nearfar.encoders import load_encoder
    from nearfar.exporting import export_folder, export_onnx
    from nearfar.exporting.record import check_out
    from nearfar.exporting.samples import SAMPLES

    check_out(out)
    samples = _texts(texts) if texts else SAMPLES
    with shown() as progress:
        encoder = load_encoder(model, progress=progress)
        options: dict[str, Any] = {"name": model, "dim": dim, "language": language, "texts": samples, "progress": progress}
        if to == "sentence-transformers":
            found = export_folder(encoder, out, **options)
        else:
            found = export_onnx(encoder, out, kind="onnx" if to == "onnx" else "onnx-int8", **options)
    if as_json:
        print(json.dumps(_told(found), ensure_ascii=False), flush=True)
    else:
        _say(found)
    _warn(found)
    return 0


def distill(
    model: str,
    out: Path,
    *,
    dim: int | None,
    pairs: Path | None,
    texts: Path | None,
    task: Path | None,
    split: str | None,
    language: str | None,
    as_json: bool,
) -> int:
    """`nearfar distill`."""
    if pairs and texts:
        raise BadConfig("--pairs and --texts: both say which texts count. Give one of them.")
    from nearfar.cli.progress import shown
    from nearfar.encoders import load_encoder
    from nearfar.encoders.load import STATIC_DIM
    from nearfar.evaluation import score_table
    from nearfar.exporting import export_table
    from nearfar.exporting.record import check_out

    check_out(out)
    judge = _task(task, split, as_json) if task else None
    counted = _pair_texts(pairs, as_json) if pairs else _texts(texts) if texts else None
    with shown() as progress:
        teacher = load_encoder(model, progress=progress)
        found = export_table(
            teacher,
            out,
            name=model,
            dim=dim or min(STATIC_DIM, teacher.dim),
            texts=counted,
            language=language,
            progress=progress,
        )
        table = load_encoder(out)
        scores, comparison = _judge(table, teacher, model, judge, progress) if judge else ([], None)
    vocabulary = json.loads((out / "export.json").read_text(encoding="utf-8"))["vocabulary"]
    if as_json:
        told: dict[str, Any] = _told(found) | {"vocabulary": vocabulary}
        if comparison:
            told |= {"systems": {e.system: e.summary() for e in scores}, "comparisons": [comparison.to_json()]}
        print(json.dumps(told, ensure_ascii=False), flush=True)
        return 0
    print(f"{out}: a table of {vocabulary:,} tokens x {found.dim} numbers, {found.size / 1e6:,.1f} MB")
    if comparison:
        print("\n" + score_table(scores, [comparison]))
    print(
        f"Next: nearfar train PAIRS -o RUN --encoder {quote(str(out))}, or use it as it is: nearfar index {quote(str(out))} CORPUS -o INDEX"
    )
    return 0


def _judge(
    table: AnyEncoder, teacher: AnyEncoder, name: str, task: Task, progress: Progress
) -> tuple[list[Evaluation], Comparison]:
    """Teacher and table on the task, and the table against its teacher."""
    from nearfar.evaluation import compare, evaluate
    from nearfar.exporting.record import shown_name

    scores = [evaluate(e, task, name=n, progress=progress) for e, n in ((teacher, shown_name(name)), (table, "table"))]
    return scores, compare(scores[1], scores[0])


def _told(found: Exported) -> dict[str, Any]:
    told = {**vars(found), "folder": str(found.folder)}
    told["quantized"] = vars(found.quantized) if found.quantized else None
    return told


def _say(found: Exported) -> None:
    print(f"{found.folder}: {found.kind}, rows of {found.dim} numbers, {found.size / 1e6:,.1f} MB")
    what = "float graph: largest" if found.quantized else "largest"
    print(
        f"  {what} difference to the model {found.largest_difference:.1e} on {found.texts} texts, alone and in one padded batch"
    )
    if found.quantized:
        print(
            f"  int8: cosine to the model smallest {found.quantized.smallest_cosine:.4f}, mean {found.quantized.mean_cosine:.4f}"
        )
    print(
        f"  {found.folder / 'README.md'} is its card: fill in the licence; {found.folder / 'export.json'} has hashes and figures."
    )


def _warn(found: Exported) -> None:
    from nearfar.exporting.graph import LOW_COSINE

    if found.quantized and found.quantized.smallest_cosine < LOW_COSINE:
        print(
            f"warning: the smallest cosine of int8 rows to the model's is {found.quantized.smallest_cosine:.3f}, below {LOW_COSINE}: "
            "its search results will differ. Measure it on your own texts (--texts FILE), or use --to onnx.",
            file=sys.stderr,
        )


def _texts(path: Path) -> list[str]:
    from nearfar.cli.rows import read_texts

    return list(read_texts(path).values())


def _pair_texts(path: Path, as_json: bool) -> list[str]:
    from nearfar.data.pairs import read_pairs

    file = read_pairs(path)
    print(file.understood, file=sys.stderr if as_json else sys.stdout)
    return [text for pair in file.pairs for text in (pair.query, pair.positive)]


def _task(folder: Path, split: str | None, as_json: bool) -> Task:
    from nearfar.data.tasks import read_task

    found = read_task(folder, split=split)
    print(found.understood, file=sys.stderr if as_json else sys.stdout)
    return found.task

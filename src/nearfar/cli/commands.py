"""What each command does, after its arguments are read and before its exit code. Heavy imports are inside: --help is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from nearfar.errors import BadConfig, BadInput

if TYPE_CHECKING:
    from nearfar.cli.recipes import Given
    from nearfar.evaluation import Evaluation
    from nearfar.training import RunResult
    from nearfar.training.config_file import ConfigFile, FileStage
    from nearfar.types import Encoder, Progress, Task


def demo(out: Path, *, pairs: int | None, as_json: bool) -> int:
    """`nearfar demo`."""
    from nearfar.cli.demo import tell
    from nearfar.cli.progress import shown

    with shown() as progress:
        result = tell(out, pairs=pairs, progress=progress, say=_talk(as_json))
    if as_json:
        say(result)
    return 0


def demo_pictures(out: Path, *, text: str, simclr: bool, pairs: int | None, as_json: bool) -> int:
    """`nearfar demo images`."""
    from nearfar.cli.demo_pictures import Asked, tell_pictures
    from nearfar.cli.progress import shown

    with shown() as progress:
        result = tell_pictures(Asked(out, text, simclr, pairs), progress=progress, say=_talk(as_json))
    if as_json:
        say(result)
    return 0


def print_config(settings: Sequence[str], *, as_json: bool) -> int:
    """`nearfar train --print-config`."""
    from nearfar.training.config import describe_config, parse_settings

    found = describe_config(parse_settings(settings))
    if as_json:
        say({name: {"value": value, "meaning": meaning} for name, value, meaning in found})
        return 0
    for name, value, meaning in found:
        setting = f"{name}={'auto' if value is None else value}"
        print(f"{setting:<34} {meaning}")
    return 0


def list_recipes(*, as_json: bool) -> int:
    """`nearfar train --list-recipes`."""
    from nearfar.cli.recipes import describe_recipes

    found = describe_recipes()
    say(found) if as_json else print("\n\n".join(found.values()))
    return 0


def read_run_file(path: Path | None) -> ConfigFile:
    """What `--config FILE` says; nothing without one."""
    from nearfar.training.config_file import ConfigFile, read_config_file

    return read_config_file(path) if path else ConfigFile(())


@dataclass(frozen=True)
class TrainRequest:
    """What `nearfar train` was asked for, on the command line and in the file it names."""

    pairs: Sequence[Path]
    out: Path
    encoder: str | None
    recipe: str | None
    stages: Sequence[FileStage]
    teacher: str | None
    settings: Sequence[str]
    task: Path | None
    dev: Path | None
    retain: Path | None
    split: str | None
    columns: str | None
    allow_swapped: bool
    resume: bool
    as_json: bool

    @property
    def is_staged(self) -> bool:
        """Whether it is a recipe or stages, not one run."""
        return self.recipe is not None or bool(self.stages)


def train(asked: TrainRequest) -> int:
    """`nearfar train`: exit 1 where the result is shown to be worse than the start on the judging queries.

    Forgetting on the retention task is said, and changes no exit code: whether it matters is the user's to decide (`metrics.json` has it).
    """
    from nearfar.cli.recipes import read_material, run_stages
    from nearfar.data.shards import shard_paths
    from nearfar.files import hash_file, hash_folder
    from nearfar.training.config import parse_settings

    talk = _talk(asked.as_json)
    parse_settings(asked.settings)  # what is wrong with them is said before a file is read
    if asked.teacher is not None and not asked.is_staged:
        raise BadConfig(
            f"--teacher {asked.teacher}: it is for recipes. For one run: --set loss.name=margin_mse --set loss.teacher={asked.teacher}."
        )
    columns = parse_columns(asked.columns)
    given = read_material(asked.pairs, columns=columns, allow_swapped=asked.allow_swapped, talk=talk, texts=asked.is_staged)
    judge = _task(asked.task, asked.split, talk) if asked.task else None
    chooser = _task(asked.dev, None, talk) if asked.dev else None
    before = _task(asked.retain, None, talk) if asked.retain else None
    files = [file for path in asked.pairs for file in (shard_paths(path) if path.name.endswith(".tar") else [path])]
    inputs = {str(file): hash_folder(file) if file.is_dir() else hash_file(file) for file in files}
    inputs |= {str(folder): hash_folder(folder) for folder in (asked.task, asked.dev, asked.retain) if folder}
    if not asked.is_staged:
        return _train_once(asked, given, judge, chooser, before, inputs)
    if before is not None:
        raise BadConfig(
            f"--retain {asked.retain}: it is for one run. Compare a recipe's model afterwards: nearfar compare {asked.out} START "
            f"--task {asked.retain}."
        )
    return run_stages(asked, given, judge, chooser, inputs)


def _train_once(
    asked: TrainRequest, given: Given, task: Task | None, dev: Task | None, retain: Task | None, inputs: Mapping[str, str]
) -> int:
    from nearfar.cli.progress import shown
    from nearfar.cli.run_report import report_run
    from nearfar.encoders import load_encoder
    from nearfar.training import parse_settings
    from nearfar.training import train as run_training

    with shown() as progress:
        result = run_training(
            given.pairs,
            out=asked.out,
            encoder=asked.encoder or "static",
            config=parse_settings(asked.settings),
            task=task,
            dev=dev,
            retain=retain,
            resume=asked.resume,
            inputs=inputs,
            where=given.where,
            progress=progress,
        )
    trained = load_encoder(asked.out)
    report_run(result, encoder=trained)
    _tell_run(asked.out, result, trained, as_json=asked.as_json)
    return 1 if result.verdict == "worse" else 0


def _tell_run(out: Path, result: RunResult, encoder: Encoder, *, as_json: bool) -> None:
    from nearfar.cli.run_report import next_commands, tell_result

    if as_json:
        told = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        say(told | {"run": str(out), "pairs_per_second": round(result.pairs_per_second, 1)})
        return
    print("\n" + tell_result(result))
    print(f"\nThe run is in {out}: model/, report.html, metrics.json. The weights are those of step {result.best_step:,}.")
    print(f"Next: {', then '.join(next_commands(out, encoder))}")
    if result.trained is not None:
        kept = quote(str(out / "trained.evaluation.json"))
        print(f"Against another run, judged on the same queries: nearfar compare {kept} OTHER_RUN/trained.evaluation.json")


def evaluate(
    model: str, task: Path, *, metrics: Sequence[str], gain: str, split: str | None, out: Path | None, as_json: bool
) -> int:
    """`nearfar evaluate`."""
    from nearfar.cli.progress import shown
    from nearfar.evaluation import is_image_text, score_table

    talk = _talk(as_json)
    found = _task(task, split, talk)
    if is_image_text(found) and not metrics:
        return _evaluate_pictures(model, found, out, as_json=as_json)
    with shown() as progress:
        done = _run_system(model, found, metrics or ("ndcg@10", "recall@10", "mrr@10"), gain, progress)
    if out:
        done.save(out)
    if as_json:
        told = {"system": done.system, "task": done.task, "queries": len(done.query_ids), "skipped": done.skipped}
        say(told | {"systems": {done.system: done.summary()}, "seconds": dict(done.seconds)})
    else:
        print(score_table([done]))
        print(f"\n{len(done.query_ids):,} queries, {len(found.corpus):,} documents; 95 % intervals over queries.")
    return 0


def _evaluate_pictures(model: str, task: Task, out: Path | None, *, as_json: bool) -> int:
    from nearfar.cli import pictures
    from nearfar.cli.progress import shown

    with shown() as progress:
        found = pictures.evaluate_pictures(model, task, progress)
    kept = pictures.kept_as(out, found) if out else {}
    if as_json:
        say({"system": model, "task": task.name, **found.to_json(), **({"kept": kept} if kept else {})})
    else:
        print(pictures.tell_image_text(found))
    return 0


def evaluate_classes(
    model: str, folder: Path, *, known: Path | None, templates: Sequence[str], out: Path | None, as_json: bool
) -> int:
    """`nearfar evaluate MODEL --classes FOLDER`."""
    from nearfar.cli import pictures
    from nearfar.cli.progress import shown

    with shown() as progress:
        found = pictures.evaluate_classes(model, folder, known, templates, progress)
    if out and found.zero_shot:
        found.zero_shot.evaluation.save(out)
    if as_json:
        say({"system": model, **found.to_json()})
    else:
        print("\n".join([pictures.tell_classes(found), *pictures.tell_broken(found.broken)]))
    return 0


def compare(a: str, b: str, task: Path | None, *, metric: str, split: str | None, as_json: bool) -> int:
    """`nearfar compare`: exit 1 where A is shown to be worse than B."""
    from nearfar.cli.progress import shown
    from nearfar.evaluation import compare as compare_evaluations
    from nearfar.evaluation import score_table

    talk = _talk(as_json)
    found = _task(task, split, talk) if task else None
    with shown() as progress:
        first, second = (_kept_or_run(name, found, metric, progress) for name in (a, b))
    if first.system == second.system:  # of two runs: both are "trained"
        names = tell_apart(a, b)
        first, second = replace(first, system=names[0]), replace(second, system=names[1])
    result = compare_evaluations(first, second, metric)
    if as_json:
        systems = {first.system: first.summary(), second.system: second.summary()}
        say({"systems": systems, "comparisons": [result.to_json()], "verdict": result.verdict})
    else:
        print(score_table([first, second], [result]))
    return 1 if result.verdict == "worse" else 0


def tell_apart(a: str, b: str) -> tuple[str, str]:
    """Short names for two systems of one name, by where they lie: the parts of their paths that differ.

    runs/a/trained.evaluation.json and runs/b/trained.evaluation.json are a and b.
    """
    ours, theirs = (list(Path(name.removesuffix(".json").removesuffix(".evaluation")).parts) for name in (a, b))
    while ours and theirs and ours[0] == theirs[0]:
        del ours[0], theirs[0]
    while ours and theirs and ours[-1] == theirs[-1]:
        del ours[-1], theirs[-1]
    return (str(Path(*ours)), str(Path(*theirs))) if ours and theirs else (a, b)


def encode(model: str, texts: Path, out: Path, *, role: str, precision: str, as_json: bool) -> int:
    """`nearfar encode`."""
    if out.suffix not in (".npy", ".safetensors", ".parquet"):
        raise BadInput(f"{out}: rows are written as .npy, .safetensors or .parquet. Give one of these endings.")
    if role not in ("query", "document"):
        raise BadConfig(f"--role {role}: a text is used as query or as document. Use one of the two.")
    if precision not in ("auto", "float32", "bfloat16"):
        raise BadConfig(f"--precision {precision}: expected auto, float32 or bfloat16.")
    from nearfar.cli.progress import shown
    from nearfar.cli.rows import read_texts, write_rows
    from nearfar.embedding import embed
    from nearfar.encoders import load_encoder

    items = read_texts(texts)
    with shown() as progress:
        encoder = load_encoder(model, progress=progress)
        told: Any = {"role": role, "precision": precision}
        rows = embed(encoder, list(items.values()), **told, progress=progress)
    wrong = [key for key, row in zip(items, rows, strict=True) if row.sum() != row.sum() or abs(row).max() == float("inf")]
    if wrong:
        raise BadInput(
            f"{model}: its rows are not finite for {len(wrong):,} of {len(items):,} texts, the first {wrong[0]!r}. Its weights are damaged or its "
            "training diverged: take an earlier checkpoint."
        )
    write_rows(out, list(items), rows)
    if as_json:
        say({"rows": len(rows), "dim": encoder.dim, "model": encoder.fingerprint(), "out": str(out)})
    else:
        print(f"{out}: {len(rows):,} rows of {encoder.dim} numbers")
    return 0


def doctor(*, as_json: bool) -> int:
    """`nearfar doctor`."""
    from nearfar.cli.doctor import examine

    found = examine()
    if as_json:
        say({"checks": [check._asdict() for check in found], "ok": all(check.ok for check in found)})
    else:
        for check in found:
            print(f"{'ok ' if check.ok else 'NO '} {check.name:<22} {check.found}")
            if check.remedy:
                print(f"    {'':<22} {check.remedy}")
    return 0 if all(check.ok for check in found if check.needed) else 1


def say(value: Any) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _talk(as_json: bool) -> Any:
    """How to say a sentence: on stdout, or beside the JSON."""

    def talk(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    return talk


def _task(folder: Path, split: str | None, talk: Any) -> Task:
    from nearfar.data.tasks import read_task

    found = read_task(folder, split=split)
    talk(found.understood)
    return found.task


def parse_columns(text: str | None) -> dict[str, str] | None:
    """What `--columns OURS=THEIRS,...` says. Raises `BadConfig` for anything else."""
    if text is None:
        return None
    found: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = part.partition("=")
        if not equals or not ours.strip() or not theirs.strip():
            raise BadConfig(f"--columns {text}: expected OURS=THEIRS,... as in query=TITLE,positive=BODY.")
        found[ours.strip()] = theirs.strip()
    return found


def is_table(name: str) -> bool:
    """Whether this names a fresh token table."""
    return name == "static" or name.startswith("static:")


def _run_system(model: str, task: Task, metrics: Sequence[str], gain: str, progress: Progress) -> Evaluation:
    from nearfar.evaluation import evaluate as run_evaluation
    from nearfar.metrics import parse_metric

    if model == "bm25":
        system: Any = "bm25"
    else:
        from nearfar.encoders import load_encoder

        system = load_encoder(model, progress=progress)
    depth = max(100, *(parse_metric(metric).k for metric in metrics))
    return run_evaluation(system, task, metrics=metrics, depth=depth, gain=gain, name=model, progress=progress)  # pyright: ignore[reportArgumentType]


def _kept_or_run(name: str, task: Task | None, metric: str, progress: Progress) -> Evaluation:
    from nearfar.evaluation import Evaluation

    if name.endswith(".json"):
        return Evaluation.load(name)
    if task is None:
        raise BadInput(
            f"{name}: a model needs a task to be compared on. Give one: --task FOLDER; or compare kept evaluations, as RUN/trained.evaluation.json."
        )
    metrics = list(dict.fromkeys(["ndcg@10", "recall@10", "mrr@10", metric]))
    return _run_system(name, task, metrics, "linear", progress)

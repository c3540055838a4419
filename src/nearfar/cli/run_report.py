"""From a run to its report: scores, differences, the curve, what changed, and a map of the documents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from nearfar.cli.picture_grids import change_grid, has_pictures, neighbour_grid
from nearfar.cli.pictures import query_words
from nearfar.errors import NearfarError
from nearfar.evaluation import Comparison, Evaluation, RankChange, RankChanges, rank_changes, score_table
from nearfar.files import read_json
from nearfar.metrics.ranking import label
from nearfar.recipes import RecipeResult
from nearfar.report import Change, Grid, MapPoint, Report, Retained, Score, StepPoint, System, project, write_report
from nearfar.training import RunResult, describe_config
from nearfar.training.reasons import Reason
from nearfar.types import Encoder, Picture, Task

MAP_POINTS = 1500


def report_run(
    result: RunResult,
    *,
    title: str = "",
    subtitle: str = "",
    evaluations: Sequence[Evaluation] = (),
    comparisons: Sequence[Comparison] = (),
    against: Evaluation | None = None,
    encoder: Encoder | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Path:
    """Write `report.html` into the run folder and return its path.

    Without `evaluations` and `comparisons` the run's own are shown; wins and losses are `against` the start unless told otherwise;
    `encoder` gives the map.
    """
    run, task, against = result.run, result.task, against or result.start
    record = read_json(run / "run.json")
    shown = list(evaluations) or [e for e in (result.start, result.trained) if e is not None]
    compared = list(comparisons) or ([result.comparison] if result.comparison else [])
    changes = rank_changes(result.trained, against, task, 6) if result.trained and against and task else None
    grids = _grids(changes, against, task, encoder) if changes and against and task and has_pictures(task) else []
    report = Report(
        title=title or f"nearfar run: {run.name}",
        subtitle=subtitle
        or f"{record['encoder']} trained on {result.pairs:,} pairs, {result.steps:,} steps at {result.pairs_per_second:,.0f} pairs a second",
        verdict=[*(headline(comparisons, result.config.evaluation.metric) if comparisons else []), *result.conclusion],
        reasons=[(reason.found, reason.advice) for reason in result.reasons],
        systems=_systems(shown),
        differences=compared,
        steps=read_steps(run / "steps.jsonl"),
        dev_scores=[(found.step, found.score) for found in result.dev_scores],
        dev_intervals=[(found.step, found.low, found.high) for found in result.dev_scores],
        best_step=result.best_step,
        grids=grids,
        gained=[_change(c) for c in changes.gained] if changes and not grids else [],
        lost=[_change(c) for c in changes.lost] if changes and not grids else [],
        changed_against=against.system if against else "",
        retained=_retained(result),
        points=_points(encoder, task) if encoder and task else [],
        settings=[(s.name, "auto" if s.value is None else str(s.value), s.meaning) for s in describe_config(result.config)],
        inputs=[(k, v) for k, v in record["inputs"].items()] or [("pairs", record["identity"]["pairs"]["content"])],
        machine=record["machine"],
        seconds=seconds or {"training": result.seconds},
        next_steps=next_commands(run, encoder),
    )
    write_report(run / "report.html", report)
    return run / "report.html"


def next_commands(run: Path, encoder: Encoder | None) -> list[str]:
    """How a trained model is put to use: pictures are indexed from a folder, and searched with a picture where the model reads no text."""
    from nearfar.encoders import image_of

    pictures = encoder is not None and image_of(encoder) is not None
    return [
        f"nearfar index {quote(str(run))} {'PHOTOS/' if pictures else 'CORPUS'} -o INDEX",
        f"nearfar search INDEX {query_words(encoder)}",
    ]


def tell_result(result: RunResult) -> str:
    """What a run came to, for a terminal: the tables, the verdict in plain words, and where it did not help, why and what to try."""
    parts = []
    if result.comparison and result.start and result.trained:
        parts.append(score_table([result.start, result.trained], [result.comparison]))
    kept = result.retention
    if kept and kept.comparison and kept.start and kept.trained:
        parts.append(f"Retention, on {kept.start.task}:\n" + score_table([kept.start, kept.trained], [kept.comparison]))
    return "\n\n".join([*parts, "\n".join(result.conclusion), *_why("What this run tells", result.reasons)])


def tell_recipe(result: RecipeResult) -> str:
    """What the stages of a recipe came to, for a terminal: the last model against the very start, then what each stage says as a run."""
    parts = []
    if result.comparison and result.start and result.trained:
        parts.append(score_table([result.start, result.trained], [result.comparison]))
    parts.append("\n".join(result.conclusion))
    for stage in result.told if len(result.told) > 1 else ():
        parts.append("\n".join([f"Stage {stage.name}, against the model it began with:", *stage.conclusion]))
        parts += _why(f"What stage {stage.name} tells", stage.reasons)
    for stage in result.told if len(result.told) == 1 else ():
        parts += [
            *(["\n".join(stage.conclusion[1:])] if stage.conclusion[1:] else []),
            *_why("What this run tells", stage.reasons),
        ]
    return "\n\n".join(parts)


def _why(who: str, reasons: Sequence[Reason]) -> list[str]:
    told = [f"- {reason.found}\n  {reason.advice}" for reason in reasons]
    return ["\n".join([f"{who} about why, and what to try:", *told])] if told else []


def headline(comparisons: Sequence[Comparison], metric: str = "ndcg@10") -> list[str]:
    """The comparisons of one metric as a sentence each, the verdict first."""
    words = {"improved": "is better than", "not shown": "is not shown to differ from", "worse": "is worse than"}
    return [
        f"{c.a} {words[c.verdict]} {c.b}: {label(c.metric)} {c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}], "
        f"{'p < 0.001' if c.p < 0.001 else f'p = {c.p:.3f}'}, {c.better:,} queries better, {c.worse:,} worse."
        for c in comparisons
        if c.metric == metric
    ]


def _systems(evaluations: Sequence[Evaluation]) -> list[System]:
    return [System(e.system, {n: Score(**dict(s)) for n, s in e.summary().items()}) for e in evaluations]


def _retained(result: RunResult) -> Retained | None:
    kept = result.retention
    if kept is None:
        return None
    found = kept.overlap
    return Retained(
        kept.sentences,
        _systems([e for e in (kept.start, kept.trained) if e is not None]),
        [kept.comparison] if kept.comparison else [],
        Score(found.mean, found.low, found.high) if found else None,
        found.k if found else 0,
    )


def read_steps(path: Path) -> list[StepPoint]:
    """The steps of a run's log; none where there is none."""
    found: list[StepPoint] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        step: dict[str, Any] = json.loads(line)
        found.append(StepPoint(step["step"], step["loss"], step["learning_rate"]))
    return found


def _change(found: RankChange) -> Change:
    # where the trained one is worse, what it put first; where it is better, what stood in the way before
    instead = found.before_top if found.difference > 0 else found.after_top
    return Change(found.query, found.relevant, found.before, found.after, "" if instead == found.relevant else instead)


def _grids(changes: RankChanges, against: Evaluation, task: Task, encoder: Encoder | None) -> list[Grid]:
    """What got better and worse as pictures, and pictures with their neighbours."""
    said = f"The greatest changes (ranks: {against.system} → trained)."
    grids = [
        change_grid("What got better", said, changes.gained, task),
        change_grid("What got worse", said, changes.lost, task),
    ]
    if encoder is not None and all(isinstance(item, Picture) for item in task.corpus.values()):
        from nearfar.embedding import embed

        rows = embed(encoder, list(task.corpus.values()))
        grids.append(neighbour_grid("Neighbours", "Pictures and the pictures nearest to them.", rows, task))
    return grids


def _points(encoder: Encoder, task: Task) -> list[MapPoint]:
    from nearfar.embedding import embed

    keys = sorted(task.corpus)
    chosen = keys[:: max(1, len(keys) // MAP_POINTS)][:MAP_POINTS]
    try:
        places = project(embed(encoder, [task.corpus[key] for key in chosen]))
    except NearfarError:
        return []
    return [MapPoint(float(x), float(y), _group(key), task.corpus[key]) for key, (x, y) in zip(chosen, places, strict=True)]


def _group(key: str) -> str:
    """Documents with dotted names belong together by their first two parts; others are one group."""
    parts = key.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0] if len(parts) == 2 else "documents"

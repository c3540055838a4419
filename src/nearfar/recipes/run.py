"""A recipe run: each stage a run folder of its own, the next from the model of the one before, resumable at any moment.

What is held out is held out once, of all that was given, so that no stage trains on what judges another. `recipe.json` says which
stages are done; those are not run again, and the one that was killed goes on bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.encoders import AnyEncoder, StaticEncoder, load_encoder
from nearfar.errors import BadInput, Mismatch
from nearfar.evaluation import Comparison, Evaluation, compare, fingerprint_task
from nearfar.files import atomic_folder, read_json, settle_folder, write_json
from nearfar.recipes.recipe import Bench, Material, Recipe, Stage
from nearfar.training import Config, RunResult, parse_settings, train
from nearfar.training.feeding import refuse_unread, unread_settings, without_settings
from nearfar.training.plan import Plan, fingerprint_pairs, hold_out
from nearfar.training.reasons import Reason, conclude
from nearfar.training.sources import check_names, for_sources
from nearfar.training.start import STATIC_LENGTH
from nearfar.types import Encoder, Pair, Picture, Progress, Task, silent

FORMAT = "nearfar-recipe/1"


class StageTold(NamedTuple):
    """What a stage's run said of itself when it ended, by this process or an earlier one."""

    name: str
    conclusion: list[str]
    reasons: list[Reason]


@dataclass(frozen=True)
class RecipeResult:
    """What a recipe came to: its folder, the stages run by this process, and the last model against the very start."""

    run: Path
    stages: list[RunResult]
    folders: list[Path]
    """Of all stages, those done before too."""
    start: Evaluation | None
    trained: Evaluation | None
    comparison: Comparison | None
    conclusion: list[str] = field(default_factory=list)
    """The verdict on the last model against the very start, in plain words."""
    told: list[StageTold] = field(default_factory=list)
    """What each stage came to, and why where it is not shown to have helped: against the model it began with."""

    @property
    def verdict(self) -> str:
        """`improved`, `not shown`, `worse`, or `not judged`."""
        return self.comparison.verdict if self.comparison else "not judged"


def run_recipe(
    recipe: Recipe,
    pairs: Sequence[Pair],
    *,
    out: Path | str,
    texts: Sequence[str] = (),
    encoder: str | Path | None = None,
    teacher: str | Path | None = None,
    settings: Sequence[str] = (),
    task: Task | None = None,
    dev: Task | None = None,
    resume: bool = False,
    inputs: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> RecipeResult:
    """Run all stages of `recipe` on `pairs` and `texts`; `out/model` is the last model, `out/stage-N-NAME` each stage's run.

    `settings` (texts like "epochs=2") change every stage's; `encoder` is where to start (default: the recipe's), `teacher` a model for recipes
    that learn a teacher's scores. Raises `Missing` where the recipe lacks something, saying what to give, `BadInput` where `out` holds
    something and `resume` is not asked for, `Mismatch` where it began with other inputs, and what `nearfar.train` raises.
    """
    run = Path(out)
    config = parse_settings(settings, parse_settings(recipe.settings))
    asked = load_encoder(teacher, progress=progress) if teacher is not None else None
    recipe.check(Material(pairs, texts), asked)
    material = recipe.prepare(Material(pairs, texts))
    plan = _hold_out(material, config, dev=dev, task=task)
    _check_settings(recipe, settings, {pair.source or "" for pair in plan.pairs})
    model = _open(encoder or recipe.encoder, config, progress)
    now = _identity(recipe, pairs, texts, model, asked, settings, plan)
    kept = _begin(run, now, resume, inputs or {}, recipe)
    results: list[RunResult] = []
    for number, stage in enumerate(recipe.stages, 1):
        folder = run / f"stage-{number}-{stage.name}"
        done = next((told for told in kept["stages"] if told["folder"] == folder.name), None)
        if done is None:
            bench = Bench(Material(plan.pairs, material.texts), model, asked, config.seed, progress)
            result = _run_stage(recipe, stage, folder, bench, kept["stages"], settings, plan, inputs or {})
            done = _record(stage, folder, model, result, kept["stages"])
            kept["stages"].append(done)
            write_json(run / "recipe.json", kept)
            results += [result] if result else []
        if not done["skipped"]:
            model = load_encoder(folder / "model")
    _put_model(run, run / kept["stages"][-1]["model_folder"])
    return _judged(run, kept, results, config)


def _check_settings(recipe: Recipe, settings: Sequence[str], sources: set[str]) -> None:
    """Raise `BadConfig` for a source that is not there, and for a setting of a loss that no stage has."""
    asked = [_told(recipe, stage, settings) for stage in recipe.stages]
    for config in asked:
        check_names(sources, config)
    unread = set.intersection(*(set(unread_settings(config)) for config in asked))
    refuse_unread(asked[0], sorted(unread), f"stage {recipe.stages[0].name}" if len(asked) > 1 else "this run")


def _hold_out(material: Material, config: Config, *, dev: Task | None, task: Task | None) -> Plan:
    if not material.pairs:
        return Plan([], dev, task, 0)
    return hold_out(material.pairs, config, dev=dev, task=task)


def _open(name: str | Path, config: Config, progress: Progress) -> AnyEncoder:
    model = load_encoder(name, dim=config.dim, max_length=config.max_length, seed=config.seed, progress=progress)
    if isinstance(model, StaticEncoder) and model.max_length is None:
        return load_encoder(name, dim=config.dim, max_length=STATIC_LENGTH, progress=progress)
    return model


def _identity(
    recipe: Recipe,
    pairs: Sequence[Pair],
    texts: Sequence[str],
    model: AnyEncoder,
    teacher: Encoder | None,
    settings: Sequence[str],
    plan: Plan,
) -> dict[str, Any]:
    content = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    return {
        "the recipe": recipe.name,
        "the stages": [[stage.name, *recipe.settings, *stage.settings] for stage in recipe.stages],
        "the settings": sorted(text for text in settings if not text.startswith("checkpoint.")),
        "the pairs": {"count": len(pairs), "content": fingerprint_pairs(pairs)},
        "the texts": {"count": len(texts), "content": f"sha256:{content}"},
        "the encoder": model.fingerprint(),
        "the teacher": None if teacher is None else teacher.fingerprint(),
        "the dev task": None if plan.dev is None else fingerprint_task(plan.dev),
        "the judging task": None if plan.task is None else fingerprint_task(plan.task),
    }


def _begin(run: Path, now: dict[str, Any], resume: bool, inputs: Mapping[str, str], recipe: Recipe) -> dict[str, Any]:
    """The record of the recipe, written where there was none."""
    path = run / "recipe.json"
    settle_folder(run / "model")
    if path.exists():
        if not resume:
            raise BadInput(f"{run}: a recipe was run here already. Go on with it (--resume), or train into another folder.")
        told = read_json(path)
        changed = [what for what, value in now.items() if told.get("identity", {}).get(what) != value]
        if changed:
            raise Mismatch(
                f"{run}: this recipe cannot go on: {', '.join(changed)} changed since it began. Give what it began with (see {path}), or train "
                "into another folder."
            )
        return told
    if run.exists() and (not run.is_dir() or any(not p.name.startswith(".") for p in run.iterdir())):
        raise BadInput(f"{run}: the folder is not empty and holds no recipe. Train into another folder.")
    kept = {
        "format": FORMAT,
        "recipe": recipe.name,
        "paper": recipe.paper,
        "identity": now,
        "inputs": dict(inputs),
        "stages": [],
    }
    write_json(path, kept)
    return kept


def _run_stage(
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    bench: Bench,
    before: Sequence[Mapping[str, Any]],
    settings: Sequence[str],
    plan: Plan,
    inputs: Mapping[str, str],
) -> RunResult | None:
    """One stage as an ordinary run, begun or gone on with; None where it has nothing to train on."""
    model = bench.encoder
    assert isinstance(model, AnyEncoder)
    parent = model.fingerprint()
    if stage.prompts is not None:
        model.prompts = stage.prompts
    found = _stage_pairs(stage, folder, bench)
    if not found:
        bench.progress("recipe", 0, 1, note=f"stage {stage.name} is left out: there is nothing for it ({stage.idea})")
        return None
    config = for_sources(_stage_config(recipe, stage, settings), found)
    bench.progress("recipe", 0, 1, note=f"{folder.name}: {stage.idea} ({len(found):,} pairs)")
    lineage = {
        "recipe": recipe.name,
        "paper": recipe.paper,
        "stage": stage.name,
        "number": len(before) + 1,
        "of": [each.name for each in recipe.stages],
        "parent": parent,
        "ancestors": [told["model"] for told in before if not told["skipped"]],
    }
    return train(
        found,
        out=folder,
        encoder=model,
        config=config,
        task=plan.task,
        dev=plan.dev,
        resume=True,
        inputs=inputs,
        lineage=lineage,
        progress=bench.progress,
    )


def _stage_pairs(stage: Stage, folder: Path, bench: Bench) -> list[Pair]:
    """The pairs of a stage, made once and kept in its folder: mining again might not find the same."""
    for name in ("pairs.jsonl", "pairs.parquet"):
        if (folder / "data" / name).exists():
            return read_pairs(folder / "data" / name, allow_swapped=True).pairs
    found = stage.pairs(bench)
    # pictures that are no files of their own stay bytes, which JSON has no place for
    items = (item for pair in found for item in (pair.query, pair.positive, *pair.negatives))
    is_bytes = any(isinstance(item, Picture) and item.data is not None for item in items)
    path = folder / "data" / ("pairs.parquet" if is_bytes else "pairs.jsonl")
    if found:
        write_pairs(path, found)
    return found


def _stage_config(recipe: Recipe, stage: Stage, settings: Sequence[str]) -> Config:
    """The stage's settings, changed by the user's that it reads (others are of another stage's loss); nothing more is held out."""
    config = _told(recipe, stage, settings)
    config = without_settings(config, unread_settings(config))
    return replace(config, evaluation=replace(config.evaluation, dev=0, judge=0))


def _told(recipe: Recipe, stage: Stage, settings: Sequence[str]) -> Config:
    return parse_settings(settings, parse_settings([*recipe.settings, *stage.settings]))


def _record(
    stage: Stage, folder: Path, model: AnyEncoder, result: RunResult | None, before: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    last = before[-1]["model_folder"] if before else None
    if result is None:
        return {"name": stage.name, "folder": folder.name, "skipped": True, "model": model.fingerprint(), "model_folder": last}
    told = read_json(folder / "run.json")
    return {
        "name": stage.name,
        "folder": folder.name,
        "skipped": False,
        "settings": list(stage.settings),
        "pairs": result.pairs,
        "steps": result.steps,
        "best_step": result.best_step,
        "verdict": result.verdict,
        "parent": told["lineage"]["parent"],
        "start": told["start"],
        "model": load_encoder(folder / "model").fingerprint(),
        "model_folder": f"{folder.name}/model",
    }


def _put_model(run: Path, model: Path) -> None:
    """The last stage's model, byte for byte, as the model of the whole."""
    with atomic_folder(run / "model") as target:
        shutil.copytree(model, target, dirs_exist_ok=True)


def _judged(run: Path, kept: Mapping[str, Any], results: list[RunResult], config: Config) -> RecipeResult:
    """The last model against the model before the first stage, both judged already by their stages."""
    folders = [run / told["folder"] for told in kept["stages"] if not told["skipped"]]
    start, trained = folders[0] / "start.evaluation.json", folders[-1] / "trained.evaluation.json"
    first = last = comparison = None
    if start.exists() and trained.exists():
        first, last = Evaluation.load(start), Evaluation.load(trained)
        comparison = compare(last, first, config.evaluation.metric)
    conclusion, stages = [_conclude(kept, first, last, comparison)], [_read_stage(folder) for folder in folders]
    systems = {e.system: e.summary() for e in (first, last) if e is not None}
    told = {
        "verdict": comparison.verdict if comparison else "not judged",
        "systems": systems,
        "comparisons": [comparison.to_json()] if comparison else [],
        "conclusion": conclusion,
        "stages": [
            {name: s.get(name) for name in ("name", "skipped", "steps", "best_step", "verdict")} for s in kept["stages"]
        ],
    }
    write_json(run / "metrics.json", told)
    return RecipeResult(run, results, folders, first, last, comparison, conclusion, stages)


def _conclude(kept: Mapping[str, Any], first: Evaluation | None, last: Evaluation | None, found: Comparison | None) -> str:
    """As a single run says it, of the last model against the very start."""
    if first is None or last is None or found is None:
        return conclude(None, "", (0.0, 0.0), 0, start_kept=False, judges="")
    before, after = (float(np.mean(e.metrics[found.metric])) for e in (first, last))
    start_kept = all(stage["skipped"] or stage["best_step"] == 0 for stage in kept["stages"])
    return conclude(found, found.metric, (before, after), len(first.query_ids), start_kept=start_kept, judges=first.task)


def _read_stage(folder: Path) -> StageTold:
    told = read_json(folder / "metrics.json")
    name = read_json(folder / "run.json")["lineage"]["stage"]
    return StageTold(name, told["conclusion"], [Reason(**reason) for reason in told["reasons"]])

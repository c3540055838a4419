"""Several files and several stages, for `nearfar train`: each file a source by its name, each stage a run of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.errors import BadConfig, BadInput

if TYPE_CHECKING:
    from nearfar.cli.commands import TrainRequest
    from nearfar.recipes import Bench, Recipe
    from nearfar.training.config_file import FileStage
    from nearfar.types import Pair, Task


@dataclass
class Given:
    """What the files held: pairs, and texts that belong to no pair."""

    pairs: list[Pair] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    """`file:line` of each pair."""


def read_material(
    paths: Sequence[Path],
    *,
    columns: Mapping[str, str] | None,
    allow_swapped: bool,
    talk: Callable[[str], None],
    texts: bool = False,
) -> Given:
    """Read all files. Of several, each pair's source is its own or else the file's name without its ending.

    With `texts`, a .txt (a text a line) and a corpus .jsonl (`_id`, `text`) are texts without queries. Raises `BadInput` as `read_pairs`, and
    for two files of one name.
    """
    from nearfar.cli.rows import read_pairs_strictly, read_texts

    names = {path: path.name.partition(".")[0] for path in paths}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(paths):
        raise BadInput(
            f"PAIRS: two files are called {(twice or [paths[0].name])[0]!r}, and a file's name is its source. Rename one."
        )
    given = Given()
    for path in paths:
        if texts and _is_texts(path):
            found = [text for text in read_texts(path).values() if text.strip()]
            talk(f"{path.name}: {len(found):,} texts without queries")
            given.texts += found
            continue
        file = read_pairs_strictly(path, columns=columns, allow_swapped=allow_swapped)
        talk(file.understood)
        given.pairs += [replace(p, source=p.source or names[path]) for p in file.pairs] if len(paths) > 1 else file.pairs
        given.where += file.where
    return given


def _is_texts(path: Path) -> bool:
    from nearfar.data.formats import read_table

    if path.suffix == ".txt":
        return True
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return False
    return {"_id", "text"} <= set(read_table(path).columns)


def describe_recipes() -> dict[str, str]:
    """Each recipe as text: stages, settings, the paper's numbers and what stands here."""
    from nearfar.recipes import RECIPES

    return {name: _described(recipe) for name, recipe in RECIPES.items()}


def _described(recipe: Recipe) -> str:
    lines = [f"{recipe.name}: {recipe.idea}", f"    {recipe.paper}; starts from {recipe.encoder}"]
    if recipe.wants_teacher:
        lines.append("    needs --teacher MODEL, or teacher_scores in the pairs")
    for number, stage in enumerate(recipe.stages, 1):
        lines.append(f"    stage {number}, {stage.name}: {stage.idea}")
        lines.append(f"        {' '.join(stage.settings)}")
        if stage.prompts is not None:
            lines.append(f"        prompts: query {stage.prompts.query!r}, document {stage.prompts.document!r}")
    width = max(len(n.what) for n in recipe.numbers)
    lines += [
        f"    {n.what:<{width}}  paper: {n.paper}; here: {n.here}" + (f" ({n.why})" if n.why else "") for n in recipe.numbers
    ]
    return "\n".join(lines)


def choose_recipe(name: str | None, stages: Sequence[FileStage], encoder: str | None) -> Recipe:
    """The recipe of this name, or one of the stages of a run's file. Raises `BadConfig` naming the nearest."""
    import difflib

    from nearfar.encoders import Prompts
    from nearfar.recipes import RECIPES, Recipe, Stage

    if name is None:
        own = tuple(
            Stage(
                stage.name,
                "sources " + ", ".join(stage.sources) if stage.sources else "all pairs",
                stage.settings,
                _pick(stage),
                None if stage.prompts is None else Prompts(*stage.prompts),
            )
            for stage in stages
        )
        return Recipe("own", "the stages of a file", "own stages", own, encoder or "static")
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2, cutoff=0.4)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(RECIPES)}."
        raise BadConfig(f"--recipe {name}: there is no such recipe. {hint} All of them: nearfar train --list-recipes.")
    return RECIPES[name]


def _pick(stage: FileStage) -> Callable[[Bench], list[Pair]]:
    def pick(bench: Bench) -> list[Pair]:
        there = {pair.source for pair in bench.material.pairs}
        unknown = sorted(set(stage.sources or ()) - {name for name in there if name})
        if unknown:
            raise BadConfig(
                f"stage {stage.name}: there is no source {unknown[0]!r}. There are {sorted(str(name) for name in there)}."
            )
        return [pair for pair in bench.material.pairs if stage.sources is None or pair.source in stage.sources]

    return pick


def run_stages(asked: TrainRequest, given: Given, task: Task | None, dev: Task | None, inputs: Mapping[str, str]) -> int:
    """Run all stages, write each stage's report, say what came of it: exit 1 where the last model is shown to be worse than the start."""
    from nearfar.cli.progress import shown
    from nearfar.cli.run_report import next_commands, report_run, tell_recipe
    from nearfar.encoders import load_encoder
    from nearfar.recipes import run_recipe

    chosen, out, own = choose_recipe(asked.recipe, asked.stages, asked.encoder), asked.out, asked.recipe is None
    with shown() as progress:
        result = run_recipe(
            # a file's own settings stand below its stages'; a recipe's stand below the user's
            replace(chosen, settings=tuple(asked.settings)) if own else chosen,
            given.pairs,
            out=out,
            texts=given.texts,
            encoder=asked.encoder,
            teacher=asked.teacher,
            settings=() if own else asked.settings,
            task=task,
            dev=dev,
            resume=asked.resume,
            inputs=inputs,
            progress=progress,
        )
    for stage in result.stages:
        report_run(stage, encoder=load_encoder(stage.run))
    if asked.as_json:
        told = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        print(json.dumps(told | {"run": str(out), "recipe": chosen.name}, ensure_ascii=False), flush=True)
    else:
        print("\n" + tell_recipe(result))
        folders = ", ".join(folder.name for folder in result.folders)
        print(f"\nThe model is in {out}: model/; its stages, each with a report.html: {folders}.")
        print(f"Next: {', then '.join(next_commands(out, load_encoder(out)))}")
    return 1 if result.verdict == "worse" else 0

"""Recipes: each runs end to end on a tiny model, says what it lacks, and goes on after a kill where it was."""

import json
from dataclasses import replace

import pytest
import torch

from nearfar.cli.run_report import tell_recipe
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.errors import BadConfig, BadInput, Mismatch, Missing
from nearfar.files import hash_file
from nearfar.recipes import RECIPES, Bench, Material, run_recipe
from nearfar.recipes.negatives import pairs_of_texts, with_negatives
from nearfar.training import parse_settings
from nearfar.types import Pair

from tiny import WORDS, StoppedError, tiny_pairs, tiny_tokenizer, tiny_transformer

QUICK = ["batch_size=16", "epochs=1", "learning_rate=0.001", "evaluation.dev=10", "evaluation.judge=20", "checkpoint.every=2"]


def static(seed=0, dim=16):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(table, tiny_tokenizer())


@pytest.fixture
def models(tmp_path):
    """A transformer, a table to tune and a table to learn from."""
    tiny_transformer(tmp_path / "bert")
    static(0, 256).save(tmp_path / "table")
    static(1).save(tmp_path / "teacher")
    return tmp_path


def run(name, out, models, *, encoder="bert", pairs=None, **options):
    given = tiny_pairs(100) if pairs is None else pairs
    return run_recipe(RECIPES[name], given, out=out, encoder=models / encoder, settings=QUICK, **options)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.wants_pictures])
def test_a_recipe_runs_all_its_stages_and_leaves_one_model_with_its_lineage(name, models):
    encoder = "table" if name == "static" else "bert"
    recipe = RECIPES[name]
    result = run(name, models / "run", models, encoder=encoder, teacher=models / "teacher")
    assert [f.name for f in result.folders] == [f"stage-{i}-{s.name}" for i, s in enumerate(recipe.stages, 1)]
    told = json.loads((models / "run" / "recipe.json").read_text())
    assert [s["name"] for s in told["stages"]] == [s.name for s in recipe.stages]
    for folder, stage, recorded in zip(result.folders, recipe.stages, told["stages"], strict=True):
        lineage = json.loads((folder / "run.json").read_text())["lineage"]
        assert (lineage["recipe"], lineage["stage"], lineage["parent"]) == (name, stage.name, recorded["parent"])
    for before, after in zip(told["stages"], told["stages"][1:], strict=False):
        assert after["parent"] == before["model"]
    assert load_encoder(models / "run").fingerprint() == told["stages"][-1]["model"]
    assert result.verdict in ("improved", "not shown", "worse")
    assert result.start is not None
    assert len(result.start.query_ids) == 20


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_read(name):
    recipe = RECIPES[name]
    assert recipe.idea
    assert recipe.paper
    assert recipe.numbers
    for stage in recipe.stages:
        parse_settings(stage.settings)
    assert all(number.what and number.paper and number.here for number in recipe.numbers)


def stop_in(stage_number, step):
    began = []

    def progress(stage, done, total, **facts):
        if stage == "recipe":
            began.append(facts["note"])
        if len(began) == stage_number and stage == "train" and done == step:
            raise StoppedError

    return progress


@pytest.mark.parametrize("moment", [(1, 3), (2, 2)])
def test_a_recipe_stopped_in_either_stage_ends_with_the_weights_of_one_left_alone(models, moment):
    run("e5", models / "alone", models, teacher=models / "teacher")
    with pytest.raises(StoppedError):
        run("e5", models / "cut", models, teacher=models / "teacher", progress=stop_in(*moment))
    first = models / "cut" / "stage-1-weak" / "metrics.json"
    stamp = first.stat().st_mtime_ns if moment[0] == 2 else None
    result = run("e5", models / "cut", models, teacher=models / "teacher", resume=True)
    assert len(result.stages) == 3 - moment[0]
    if stamp is not None:
        assert first.stat().st_mtime_ns == stamp
    for name in ("stage-1-weak", "stage-2-distil"):
        for file in ("model/model.safetensors", "steps.jsonl", "data/pairs.jsonl"):
            assert hash_file(models / "alone" / name / file) == hash_file(models / "cut" / name / file), (name, file)
    assert hash_file(models / "alone" / "model" / "model.safetensors") == hash_file(
        models / "cut" / "model" / "model.safetensors"
    )
    assert (models / "alone" / "metrics.json").read_text() == (models / "cut" / "metrics.json").read_text()


def test_a_setting_of_one_stages_loss_is_that_stages_and_one_of_no_stage_is_refused(models):
    settings = [*QUICK, "loss.teacher_temperature=0.5"]
    options = {"encoder": models / "bert", "teacher": models / "teacher"}
    run_recipe(RECIPES["e5"], tiny_pairs(100), out=models / "run", settings=settings, **options)
    told = [
        json.loads((models / "run" / name / "run.json").read_text())["identity"]["config"]["loss"]["teacher_temperature"]
        for name in ("stage-1-weak", "stage-2-distil")
    ]
    assert told == [None, 0.5]
    with pytest.raises(BadConfig, match=r"loss\.guide=minilm: .*It is of gist"):
        run_recipe(RECIPES["e5"], tiny_pairs(100), out=models / "not", settings=["loss.guide=minilm"], **options)
    assert not (models / "not").exists()


def test_a_recipe_says_all_that_its_stages_say_also_when_it_only_reads_them(models):
    settings = [*QUICK, "learning_rate=1e-9"]  # so that every stage keeps its start
    options = {"out": models / "run", "encoder": models / "bert", "settings": settings}
    first = run_recipe(RECIPES["bge"], tiny_pairs(100), **options)
    again = run_recipe(RECIPES["bge"], tiny_pairs(100), **options, resume=True)
    assert again.stages == []
    assert again.told == first.told
    assert [(stage.name, stage.conclusion, stage.reasons) for stage in first.told] == [
        (name, run.conclusion, run.reasons) for name, run in zip(("general", "task"), first.stages, strict=True)
    ]
    assert first.told[0].reasons
    told = tell_recipe(again)
    for stage in first.told:
        assert "\n".join(stage.conclusion) in told
        assert all(f"- {reason.found}\n  {reason.advice}" in told for reason in stage.reasons)
    assert told.count("model/ is the start itself") == 3
    assert again.conclusion[0] in told


def test_a_finished_recipe_resumed_runs_nothing(models):
    run("sbert", models / "run", models)
    before = hash_file(models / "run" / "model" / "model.safetensors")
    again = run("sbert", models / "run", models, resume=True)
    assert again.stages == []
    assert hash_file(models / "run" / "model" / "model.safetensors") == before


def test_a_recipe_goes_on_only_with_what_it_began_with_and_only_when_asked(models):
    run("sbert", models / "run", models)
    with pytest.raises(BadInput, match="--resume"):
        run("sbert", models / "run", models)
    with pytest.raises(Mismatch, match="the pairs, "):
        run("sbert", models / "run", models, pairs=tiny_pairs(99), resume=True)
    with pytest.raises(Mismatch, match="the recipe, the stages changed"):
        run("bge", models / "run", models, resume=True)


@pytest.mark.parametrize("name", ["e5", "gpl"])
def test_a_recipe_without_its_teacher_says_so_at_once(models, name):
    with pytest.raises(Missing, match=rf"--recipe {name}: it needs a teacher.*--teacher MODEL"):
        run(name, models / "run", models)
    assert not (models / "run").exists()


@pytest.mark.parametrize("name", ["sbert", "e5", "bge", "gte", "static"])
def test_a_recipe_of_pairs_refuses_texts_alone(models, name):
    with pytest.raises(Missing, match="Give a file with queries and positives"):
        run(name, models / "run", models, pairs=[], texts=["a cat.", "a dog."])


def test_two_views_need_dropout(models):
    with pytest.raises(Missing, match="dropout masks, and a token table has none"):
        run("simcse", models / "run", models, encoder="table")


def test_simcse_on_texts_alone_is_its_first_stage(models):
    texts = [f"{a} {b}" for a, b in zip(WORDS, WORDS[7:], strict=False)]
    result = run("simcse", models / "run", models, pairs=[], texts=texts)
    assert [f.name for f in result.folders] == ["stage-1-unsupervised"]
    told = json.loads((models / "run" / "recipe.json").read_text())
    assert [s["skipped"] for s in told["stages"]] == [False, True]
    lines = [json.loads(line) for line in (result.folders[0] / "steps.jsonl").read_text().splitlines()]
    # under one dropout mask a text would find itself at once
    assert lines[0]["loss"] > 0
    assert result.verdict == "not judged"


def test_gpl_makes_queries_of_texts(models):
    texts = [f"{p.query}. {p.positive}. {p.query} {p.positive}" for p in tiny_pairs(100)]
    result = run("gpl", models / "run", models, pairs=[], texts=texts, teacher=models / "teacher")
    kept = [json.loads(line) for line in (result.folders[0] / "data" / "pairs.jsonl").read_text().splitlines()]
    assert all(f"{k['query']} {k['positive']}" in texts for k in kept)
    assert all(len(k["teacher_scores"]) == len(k["negatives"]) + 1 for k in kept)


def test_a_title_or_the_first_sentence_asks_and_the_rest_answers():
    texts = ["Cats\nThey eat fish. They sleep.", "Dogs run. They bark!", "one sentence only", "Dogs run. They bark!"]
    assert pairs_of_texts(texts) == [Pair("Cats", "They eat fish. They sleep."), Pair("Dogs run.", "They bark!")]


def test_no_stage_trains_on_what_is_held_out(models):
    pairs = tiny_pairs(100)
    result = run("gte", models / "run", models, pairs=pairs)
    assert result.stages[0].task is not None
    judged = set(result.stages[0].task.queries.values())
    for folder in result.folders:
        kept = [json.loads(line) for line in (folder / "data" / "pairs.jsonl").read_text().splitlines()]
        assert not judged & {k["query"] for k in kept}
        assert len(kept) <= 70


def test_a_mined_negative_is_never_a_known_positive_nor_nearer_than_the_rule_allows():
    pairs = [replace(p, group=f"g{i // 3}") for i, p in enumerate(tiny_pairs(60))]
    encoder = static(3)
    found = with_negatives(Bench(Material(pairs), encoder), pairs, count=4)
    positives = {p.query: {o.positive for o in pairs if o.group == p.group} for p in pairs}
    from nearfar.embedding import embed

    for pair in found:
        assert pair.negatives
        assert not positives[pair.query] & set(pair.negatives)
        query = embed(encoder, [pair.query], role="query")[0]
        near = embed(encoder, [pair.positive, *pair.negatives]) @ query
        assert near[0] <= 0 or (near[1:] <= 0.95 * near[0] + 1e-6).all()


def test_negatives_that_are_given_are_kept():
    pairs = [replace(p, negatives=("my own",)) if i == 0 else p for i, p in enumerate(tiny_pairs(20))]
    assert with_negatives(Bench(Material(pairs), static()), pairs, count=2)[0].negatives == ("my own",)


def test_negatives_by_chance_are_a_source_of_their_own_and_said():
    notes = []
    pairs = tiny_pairs(20)
    bench = Bench(Material(pairs), static(), progress=lambda *_a, **facts: notes.append(facts.get("note")))
    found = with_negatives(bench, pairs, count=2, below_positive=0.0)
    by_chance = [p for p in found if p.mined[0].source == "random"]
    assert by_chance
    assert all(len(p.negatives) == 2 and p.positive not in p.negatives for p in by_chance)
    assert f"{len(by_chance)} of 20 pairs get negatives by chance" in " ".join(filter(None, notes))


def test_pairs_with_a_teachers_scores_go_through_stages_without_negatives(models):
    pairs = [replace(p, negatives=("my own",), teacher_scores=(2.0, 1.0)) for p in tiny_pairs(60)]
    for folder in run("bge", models / "run", models, pairs=pairs).folders:
        from nearfar.data.pairs import read_pairs

        assert read_pairs(folder / "data" / "pairs.jsonl").pairs

"""The guard: what is said before the first step, which checkpoint is kept, when a run stops, what it forgot, and that it says so."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.cli.run_report import tell_result
from nearfar.data.pairs import write_pairs
from nearfar.data.tasks import task_from_pairs, write_task
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.encoders.load import starter_folder
from nearfar.errors import NearfarError
from nearfar.evaluation import Evaluation, evaluate
from nearfar.files import hash_file
from nearfar.training import guard, parse_settings, train
from nearfar.training.dev import DevScore, choose_best, is_over, score_dev, wait
from nearfar.types import Pair

from tiny import WORDS, tiny_pairs, tiny_tokenizer

SMALL = parse_settings(
    ["batch_size=16", "epochs=3", "learning_rate=0.05", "evaluation.dev=40", "evaluation.judge=60", "evaluation.every=5"]
)
MEDQUAD = Path(__file__).parents[2] / ".." / "shared" / "data" / "medquad"


def static(seed=0):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(table, tiny_tokenizer())


def other_pairs(count, seed=0):
    """Another domain, at odds with `tiny_pairs`: word 2i means word 2i + 3."""
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        half = rng.permutation(len(WORDS) // 2)[:3]
        found[" ".join(WORDS[2 * i] for i in half)] = " ".join(WORDS[(2 * i + 3) % len(WORDS)] for i in half)
    return [Pair(q, p) for q, p in found.items()]


def interrupt_at(step):
    def interrupt(stage, done, total, **facts):
        if stage == "train" and done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that knows one domain, pairs of another, and a task of each."""
    folder = tmp_path_factory.mktemp("guard")
    config = replace(SMALL, epochs=8, evaluation=replace(SMALL.evaluation, every=None, dev=0, judge=0))
    train(tiny_pairs(400), out=folder / "first", encoder=static(), config=config)
    write_pairs(folder / "other.csv", other_pairs(400))
    write_task(folder / "known", task_from_pairs("known", tiny_pairs(80, seed=1)))
    write_task(folder / "wanted", task_from_pairs("wanted", other_pairs(80, seed=1)))
    return folder


def command(place, *arguments):
    settings = ["--set", "batch_size=16", "--set", "epochs=8", "--set", "learning_rate=0.2"]
    line = [sys.executable, "-m", "nearfar", "train", "other.csv", "--encoder", "first", *arguments, *settings]
    return subprocess.run([str(part) for part in line], cwd=place, capture_output=True, text=True)


# the curve: pure laws


def test_what_is_not_shown_to_be_better_than_the_start_does_not_take_its_place():
    start = np.linspace(0, 1, 30)
    noise = np.random.default_rng(0).normal(0, 0.3, 30)
    curve = [score_dev(0, start, start), score_dev(5, start + noise - noise.mean() + 0.05, start)]
    assert curve[0] == DevScore(0, 0.5, 0, 0, 0)
    assert curve[1].difference == pytest.approx(0.05)
    assert choose_best(curve).step == 0
    assert choose_best([*curve, score_dev(10, start + 0.04, start)]).step == 10


def test_a_sure_small_gain_is_kept_before_a_larger_one_at_few_queries():
    start = np.zeros(100)
    few = np.where(np.arange(100) < 4, 1.0, 0.0)
    sure, lucky = score_dev(5, start + 0.035, start), score_dev(10, few, start)
    assert lucky.difference > sure.difference
    assert choose_best([score_dev(0, start, start), lucky, sure]) == sure


def test_among_equal_bounds_the_earliest_is_kept():
    assert choose_best([DevScore(0, 0.5, 0, 0, 0), DevScore(5, 0.6, 0.1, 0.05, 1), DevScore(9, 0.7, 0.2, 0.05, 1)]).step == 5


def test_patience_waits_for_what_training_does_not_for_the_start():
    def curve(*lows):
        return [DevScore(n, 0, 0, low, 0) for n, low in enumerate(lows)]

    assert [wait(curve(*lows)) for lows in ((0.0,), (0, -3), (0, -3, -2, -1), (0, 1, 2, 1.5, 1), (0, 1, 1))] == [0, 0, 0, 2, 1]
    assert is_over(curve(0, 2, 1, 1), 2)
    assert not is_over(curve(0, 2, 1, 1), 3)
    assert not is_over(curve(0, 2, *[1] * 99), None)
    assert not is_over(curve(0), 1)


# the run


def test_the_scores_of_the_start_are_said_before_the_first_step(tmp_path):
    said = []

    def listen(stage, done, total, **facts):
        said.append((stage, done, str(facts.get("note", ""))))

    retain = task_from_pairs("known", tiny_pairs(50, seed=3))
    train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=SMALL, retain=retain, progress=listen)
    first = next(n for n, (stage, done, _) in enumerate(said) if stage == "train" and done == 1)
    notes = [note for stage, _, note in said[:first] if stage == "start"]
    assert [next(word for word in ("judging", "dev", "retention") if f"{word} queries" in note) for note in notes] == [
        "judging",
        "dev",
        "retention",
    ]
    assert all("before any step" in note and "[" in note for note in notes)
    lines = [note for stage, _, note in said if stage == "dev" and note]
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(lines) == len(told["dev"]) - 1
    for line, found in zip(lines, told["dev"][1:], strict=True):
        assert f"{found['score']:.3f}, {found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]" in line


def test_the_kept_checkpoint_has_the_greatest_lower_bound_of_the_recorded_ones(tmp_path):
    result = train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=SMALL)
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert told["dev"][0] == {"step": 0, "score": told["dev"][0]["score"], "difference": 0, "low": 0, "high": 0}
    assert max(told["dev"], key=lambda found: found["low"])["step"] == told["best_step"] == result.best_step > 0


def test_a_run_out_of_patience_stops_says_so_and_stays_stopped(tmp_path):
    config = replace(SMALL, learning_rate=5.0, epochs=12, evaluation=replace(SMALL.evaluation, patience=2, every=3))
    total = 12 * len(range(0, 200, 16))
    result = train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=config)
    assert result.steps < total
    assert wait(result.dev_scores) == 2
    assert result.stopped is not None
    assert f"Stopped early, at step {result.steps}" in result.stopped
    assert result.stopped in tell_result(result)
    before = [hash_file(tmp_path / "run" / name) for name in ("metrics.json", "steps.jsonl", "model/model.safetensors")]
    again = train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=config, resume=True)
    assert again.steps == result.steps
    assert [hash_file(tmp_path / "run" / n) for n in ("metrics.json", "steps.jsonl", "model/model.safetensors")] == before


def test_an_interrupted_run_stops_for_want_of_patience_where_one_left_alone_does(tmp_path):
    config = replace(SMALL, learning_rate=5.0, epochs=12, evaluation=replace(SMALL.evaluation, patience=3, every=3))
    alone = train(tiny_pairs(300), out=tmp_path / "alone", encoder=static(), config=config)
    assert alone.stopped is not None
    for moment in (alone.steps - 8, alone.steps - 2):
        with pytest.raises(KeyboardInterrupt):
            train(
                tiny_pairs(300),
                out=tmp_path / "cut",
                encoder=static(),
                config=config,
                resume=True,
                progress=interrupt_at(moment),
            )
    cut = train(tiny_pairs(300), out=tmp_path / "cut", encoder=static(), config=config, resume=True)
    assert (cut.steps, cut.best_step, cut.dev_scores) == (alone.steps, alone.best_step, alone.dev_scores)
    for name in ("metrics.json", "steps.jsonl", "model/model.safetensors"):
        assert hash_file(tmp_path / "cut" / name) == hash_file(tmp_path / "alone" / name), name


def test_a_start_that_training_only_harms_is_kept_and_the_run_says_why(place, tmp_path):
    pairs = [Pair(p.query, q.positive) for p, q in zip(tiny_pairs(200), reversed(tiny_pairs(200)), strict=True)]
    dev = task_from_pairs("dev", tiny_pairs(60, seed=5))
    config = replace(SMALL, learning_rate=1.0)
    result = train(pairs, out=tmp_path / "run", encoder=place / "first", config=config, dev=dev, task=dev)
    assert (result.best_step, result.verdict) == (0, "not shown")
    assert load_encoder(tmp_path / "run").fingerprint() == load_encoder(tmp_path / "run" / "start").fingerprint()
    assert "model/ is the start itself" in result.conclusion[0]
    assert any("every checkpoint was below the start" in reason.found for reason in result.reasons)
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert told["conclusion"] == result.conclusion
    assert told["reasons"][0] == {"found": result.reasons[0].found, "advice": result.reasons[0].advice}


def counted(monkeypatch, name):
    """How often the guard calls one of its functions, and with what."""
    calls, plain = [], getattr(guard, name)

    def count(*arguments, **options):
        calls.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr(guard, name, count)
    return calls


def test_the_score_to_beat_is_read_and_hashed_once_however_often_the_dev_queries_are_asked(tmp_path, monkeypatch):
    hashed = {}
    for every in (5, 2):
        config = replace(SMALL, evaluation=replace(SMALL.evaluation, every=every, outside_texts=0))
        with monkeypatch.context() as patch:
            calls = counted(patch, "fingerprint_task")
            result = train(tiny_pairs(300), out=tmp_path / f"every-{every}", encoder=static(), config=config)
            train(tiny_pairs(300), out=tmp_path / f"every-{every}", encoder=static(), config=config, resume=True)
        hashed[len(result.dev_scores)] = len(calls)
    assert len(hashed) == 2
    assert len(set(hashed.values())) == 1


def test_where_the_start_is_kept_its_own_scores_are_the_results_and_nothing_is_judged_twice(place, tmp_path, monkeypatch):
    pairs = [Pair(p.query, q.positive) for p, q in zip(tiny_pairs(200), reversed(tiny_pairs(200)), strict=True)]
    dev, known = task_from_pairs("dev", tiny_pairs(60, seed=5)), task_from_pairs("known", tiny_pairs(50, seed=6))
    config = replace(SMALL, learning_rate=1.0)
    calls = counted(monkeypatch, "evaluate")
    result = train(pairs, out=tmp_path / "run", encoder=place / "first", config=config, dev=dev, task=known, retain=known)
    assert result.best_step == 0
    assert len(calls) == 3 + len(result.dev_scores) - 1
    for name, task in (("evaluation", known), ("retention", known)):
        kept = Evaluation.load(tmp_path / "run" / f"trained.{name}.json").to_json()
        again = evaluate(load_encoder(tmp_path / "run"), task, name="trained").to_json()
        assert {**kept, "seconds": 0} == {**again, "seconds": 0}


def test_without_a_retention_task_the_kept_neighbours_are_reported_and_not_judged(tmp_path):
    result = train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=SMALL)
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())["retention"]
    assert (kept["kind"], kept["verdict"]) == ("neighbours", "not judged")
    assert 0 < kept["overlap"]["low"] <= kept["overlap"]["mean"] <= kept["overlap"]["high"] < 1
    assert "Outside the target domain" in result.conclusion[1]
    off = replace(SMALL, evaluation=replace(SMALL.evaluation, outside_texts=0))
    assert train(tiny_pairs(300), out=tmp_path / "off", encoder=static(), config=off).retention is None


def test_a_retention_task_may_be_given_or_changed_when_a_finished_run_is_taken_up(tmp_path):
    train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=SMALL)
    weights = hash_file(tmp_path / "run" / "model" / "model.safetensors")
    for seed in (1, 2):
        task = task_from_pairs(f"known {seed}", other_pairs(50, seed))
        found = train(tiny_pairs(300), out=tmp_path / "run", encoder=static(), config=SMALL, retain=task, resume=True)
        assert found.retention is not None
        assert found.retention.start is not None
        assert found.retention.start.task == f"known {seed}"
    assert hash_file(tmp_path / "run" / "model" / "model.safetensors") == weights


# the command, in processes of their own


def test_forgetting_is_said_loudly_and_changes_neither_verdict_nor_exit_code(place):
    done = command(place, "-o", "forgets", "--eval", "wanted", "--retain", "known")
    assert done.returncode == 0, done.stderr
    assert "IMPROVED" in done.stdout
    assert "FORGETTING is shown" in done.stdout
    assert "Retention, on known:" in done.stdout
    told = json.loads((place / "forgets" / "metrics.json").read_text())
    assert (told["verdict"], told["retention"]["verdict"]) == ("improved", "worse")
    assert told["retention"]["comparison"]["high"] < 0
    page = (place / "forgets" / "report.html").read_text(encoding="utf-8")
    assert "What it kept, and what it forgot" in page
    assert "FORGETTING is shown" in page
    assert "retention" in done.stderr.split("train ")[0]  # the start's score on it, before the first step


def test_worse_on_the_target_exits_with_1_and_says_what_the_run_knows(place):
    done = command(place, "-o", "worse", "--eval", "known")
    assert done.returncode == 1, done.stderr
    assert "WORSE" in done.stdout
    assert "What this run tells about why, and what to try:" in done.stdout
    assert "they ask for different things" in done.stdout
    assert "Why, and what to try" in (place / "worse" / "report.html").read_text(encoding="utf-8")


def test_a_retention_folder_that_is_no_task_is_refused_before_anything_is_written(place):
    done = command(place, "-o", "never", "--retain", "nowhere")
    assert done.returncode == 2
    assert "nowhere: no such folder" in done.stderr
    assert not (place / "never").exists()


# real data


@pytest.fixture
def medical(tmp_path):
    """2,000 pairs of consumer-health questions, drawn with seed 0."""
    if not (MEDQUAD / "pairs.jsonl").exists():
        pytest.skip("needs the data of ../shared/data/medquad")
    try:
        starter_folder()
    except NearfarError as error:
        pytest.skip(f"needs the stock MiniLM: {error}")
    lines = (MEDQUAD / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = np.random.default_rng(0).permutation(len(lines))[:2000]
    (tmp_path / "pairs.jsonl").write_text("".join(lines[i] for i in chosen), encoding="utf-8")
    return tmp_path


def on_real_data(folder, *arguments):
    line = [sys.executable, "-m", "nearfar", "train", "pairs.jsonl", "-o", "run", "--json", *arguments]
    done = subprocess.run([str(part) for part in line], cwd=folder, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_good_run_on_health_questions_is_called_improved(medical):
    code, told, err = on_real_data(medical, "--eval", MEDQUAD / "task", "--retain", MEDQUAD.parent / "cranfield")
    assert (code, told["verdict"]) == (0, "improved"), err
    assert told["conclusion"][0].startswith("IMPROVED")
    assert told["comparisons"][0]["low"] > 0.1
    assert told["retention"]["verdict"] in ("not shown", "worse")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "settings"),
    [
        ("static", ["learning_rate=10000", "epochs=1"]),
        ("minilm", ["learning_rate=0.02", "epochs=1", "max_length=24", "evaluation.dev=60", "evaluation.judge=60"]),
    ],
)
def test_far_too_high_a_learning_rate_keeps_the_start_or_is_called_worse_and_says_so(medical, encoder, settings):
    if encoder == "minilm":  # a few hundred pairs and a small corpus: a transformer takes its time
        pairs = (medical / "pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (medical / "pairs.jsonl").write_text("".join(pairs[:320]), encoding="utf-8")
    code, told, err = on_real_data(medical, "--encoder", encoder, *[part for text in settings for part in ("--set", text)])
    assert told["verdict"] == "worse" or told["best_step"] == 0, err
    assert code == (1 if told["verdict"] == "worse" else 0)
    assert "start" in told["conclusion"][0]
    print(told["conclusion"], told["reasons"])
    assert any("learning rate" in reason["advice"] for reason in told["reasons"]), told["reasons"]

"""The command line: what is printed, what is refused and how, and the exit codes scripts rely on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.cli import main
from nearfar.cli.commands import tell_apart
from nearfar.cli.doctor import EXTRAS
from nearfar.cli.progress import shown
from nearfar.data.pairs import write_pairs
from nearfar.data.tasks import task_from_pairs, write_task
from nearfar.encoders import StaticEncoder, load_encoder

from tiny import tiny_pairs as pairs
from tiny import tiny_tokenizer, tiny_transformer

SETTINGS = ["--set", "batch_size=16", "--set", "epochs=6", "--set", "learning_rate=0.05", "--set", "evaluation.dev=20"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, pairs, a task and a run trained from the command line."""
    folder = tmp_path_factory.mktemp("cli")
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    StaticEncoder(table, tiny_tokenizer()).save(folder / "model")
    write_pairs(folder / "pairs.csv", pairs(400))
    write_task(folder / "task", task_from_pairs("task", pairs(60, seed=1)))
    arguments = ["train", "pairs.csv", "-o", "run", "--encoder", "model", "--eval", "task", "--json", *SETTINGS]
    done = subprocess.run([sys.executable, "-m", "nearfar", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "train.json").write_text(done.stdout)
    return folder


@pytest.fixture
def run(place, monkeypatch, capfd):
    """Run one command inside the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(place)

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    return call


def test_training_prints_one_json_object_with_scores_and_verdict(place):
    told = json.loads((place / "train.json").read_text())
    assert told["verdict"] == "improved"
    assert set(told["systems"]) == {"start", "trained"}
    assert set(told["systems"]["trained"]["ndcg@10"]) == {"mean", "low", "high"}
    assert set(told["comparisons"][0]) >= {"a", "b", "metric", "difference", "low", "high", "p", "better", "worse"}
    assert told["run"] == "run"
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert "What got better" in page
    assert "Embedding map" in page
    inputs = json.loads((place / "run" / "run.json").read_text())["inputs"]
    assert set(inputs) == {"pairs.csv", "task"}


def test_evaluate_keeps_what_compare_compares(run, place):
    code, out, _ = run("evaluate", "run", "--task", "task", "-o", "a.json", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["queries"] == 60
    assert set(told["systems"]["run"]) == {"ndcg@10", "recall@10", "mrr@10"}
    assert run("evaluate", "model", "--task", "task", "-o", "b.json")[0] == 0
    code, out, _ = run("compare", "a.json", "b.json", "--json")
    assert code == 0
    assert json.loads(out)["verdict"] == "improved"
    trained = json.loads((place / "train.json").read_text())["comparisons"][0]
    assert json.loads(out)["comparisons"][0]["difference"] == pytest.approx(trained["difference"])


def test_a_worse_candidate_is_found_wanting(run):
    code, out, _ = run("compare", "model", "run", "--task", "task")
    assert code == 1
    assert "worse" in out


def test_bm25_is_a_system_like_any_other(run):
    code, out, _ = run("evaluate", "bm25", "--task", "task", "--metric", "recall@5", "--json")
    assert code == 0
    assert set(json.loads(out)["systems"]["bm25"]) == {"recall@5"}


def test_a_metric_may_be_deeper_than_the_corpus(run):
    code, out, _ = run("evaluate", "model", "--task", "task", "--metric", "recall@5000", "--json")
    assert code == 0
    assert json.loads(out)["systems"]["model"]["recall@5000"]["mean"] == 1


@pytest.mark.parametrize(("model", "kind"), [("run", "exact"), ("run", "approximate"), ("bm25", "exact")])
def test_an_index_is_searched_by_the_model_that_made_it(run, model, kind, tmp_path):
    assert run("index", model, "task", "-o", tmp_path / "index", "--kind", kind)[0] == 0
    text = pairs(60, seed=1)[7].positive
    code, out, _ = run("search", tmp_path / "index", text, "-k", "3", "--json")
    assert code == 0
    results = json.loads(out)["searches"][0]["results"]
    assert results[0]["text"] == text
    assert [r["score"] for r in results] == sorted((r["score"] for r in results), reverse=True)
    code, out, _ = run("search", tmp_path / "index", text, text)
    assert out.count(f"\n> {text}\n") == 2
    # more results than there are documents: all of them, and no array of a million million
    code, out, _ = run("search", tmp_path / "index", text, "-k", 10**12, "--json")
    assert code == 0
    assert 0 < len(json.loads(out)["searches"][0]["results"]) <= 60


def test_an_index_refuses_another_model_and_finds_its_own_where_it_moved(run, tmp_path, place):
    load_encoder(place / "run").save(tmp_path / "elsewhere")
    assert run("index", tmp_path / "elsewhere", "task", "-o", tmp_path / "index")[0] == 0
    code, _, err = run("search", tmp_path / "index", "cat", "--model", "model")
    assert code == 2
    assert "their vectors cannot be compared" in err
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    code, _, err = run("search", tmp_path / "index", "cat")
    assert code == 2
    assert "--model" in err
    assert run("search", tmp_path / "index", "cat", "--model", tmp_path / "moved")[0] == 0


def test_rows_are_written_in_three_formats_equal_to_each_other(run, tmp_path, place):
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    texts = [" ".join(p.query.split()) for p in pairs(7)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    for ending in (".npy", ".safetensors", ".parquet"):
        assert run("encode", "model", tmp_path / "texts.txt", "-o", tmp_path / f"rows{ending}")[0] == 0
    rows = np.load(tmp_path / "rows.npy")
    encoder = load_encoder(place / "model")
    with torch.no_grad():
        assert rows == pytest.approx(encoder(encoder.prepare(texts)).numpy(), abs=1e-6)
    assert (load_file(tmp_path / "rows.safetensors")["rows"] == rows).all()
    table = pq.read_table(tmp_path / "rows.parquet")
    assert (np.stack(table["embedding"].to_numpy()) == rows).all()
    assert table["id"].to_pylist() == [str(n) for n in range(1, 8)]


def test_all_settings_are_shown_with_their_meaning(run):
    code, out, _ = run("train", "--print-config", "--set", "batch_size=512")
    assert code == 0
    assert "batch_size=512" in out
    for name in ("epochs", "learning_rate", "warmup", "temperature", "dim", "seed", "max_length"):
        assert f"\n{name}=" in f"\n{out}"
    assert json.loads(run("train", "--print-config", "--json")[1])["seed"]["value"] == 0


REFUSED = [
    (("train", "pairs.csv", "-o", "new", "--set", "batchsize=3"), "batch_size"),
    (("train", "nowhere.csv", "-o", "new"), "nowhere.csv: no such file"),
    (("train", "ragged.csv", "-o", "new"), "ragged.csv:3"),
    (("train", "empty.jsonl", "-o", "new"), "empty.jsonl"),
    (("train", "hole.jsonl", "-o", "new"), "hole.jsonl:2"),
    (("train", "latin.csv", "-o", "new"), "latin.csv:2"),
    (("train", "semicolons.csv", "-o", "new"), "separated by ';'"),
    (("train", "one query.csv", "-o", "new"), "all 20 have the same query, 'why'"),
    (("train", "task", "-o", "new"), "task"),
    (("train", "pairs.csv", "-o", "run", "--encoder", "model"), "--resume"),
    (("train", "pairs.csv", "-o", "new", "--encoder", "static:nowhere"), "nowhere"),
    (("train", "pairs.csv"), "PAIRS and -o RUN are needed"),
    (("train", "pairs.csv", "-o", "new", "--columns", "query"), "OURS=THEIRS"),
    (("evaluate", "model", "--task", "nowhere"), "nowhere"),
    (("evaluate", "model", "--task", "task", "--metric", "ndgc@10"), "ndgc@10"),
    (("evaluate", "nowhere/model", "--task", "task"), "nowhere/model"),
    (("compare", "model", "run"), "--task"),
    (("compare", "train.json", "train.json"), "no evaluation"),
    (("encode", "model", "lines.txt", "-o", "rows.csv"), ".npy"),
    (("encode", "model", "lines.txt", "-o", "rows.npy"), "lines.txt:2"),
    (("encode", "model", "lines.txt", "-o", "rows.npy", "--role", "answer"), "as query or as document"),
    (("index", "model", "task", "-o", "i", "--kind", "fast"), "fast"),
    (("index", "model", "nowhere.jsonl", "-o", "i"), "nowhere.jsonl"),
    (("search", "model", "cat"), "model"),
    (("search", "nowhere", "cat"), "nowhere"),
    (("demo", "-o", "run"), "not an earlier demo"),
    (("dance",), "dance"),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_a_mistake_is_named_with_its_place_and_exits_with_2(run, place, arguments, says):
    (place / "ragged.csv").write_text("query,positive\na,b\nc\n")
    (place / "empty.jsonl").write_text("")
    (place / "hole.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": "c", "positive": " "}\n')
    (place / "latin.csv").write_bytes(b"query,positive\ncaf\xe9,b\n")
    (place / "semicolons.csv").write_text("query;positive\na;b\nc;d\n")
    (place / "one query.csv").write_text("query,positive\n" + "".join(f"why,because {n}\n" for n in range(20)))
    (place / "lines.txt").write_text("one\n\ntwo\n")
    code, out, err = run(*arguments)
    assert code == 2
    assert says in err
    assert len(out.splitlines()) <= 1  # what was understood of the inputs before the mistake
    assert not (place / "new").exists()


def test_with_json_an_error_is_json_too(run):
    code, out, err = run("evaluate", "model", "--task", "nowhere", "--json")
    assert code == 2
    assert json.loads(out)["error"]["kind"] == "BadInput"
    assert "nowhere" in err


def test_doctor_says_what_is_here(run):
    code, out, _ = run("doctor", "--json")
    told = json.loads(out)
    assert code == 0
    assert {check["name"] for check in told["checks"]} >= {"torch", "stock MiniLM", "exact loss", "cache"}
    assert run("doctor")[1].startswith("ok")


def test_doctor_lists_every_extra_that_users_install_with_the_packages_it_brings(run):
    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {name: tuple(re.match(r"[\w-]+", line)[0] for line in lines) for name, lines in told.items()}
    assert {name: wanted[name] for name in wanted if name not in ("starter", "test", "dev", "bench")} == EXTRAS
    shown = {check["name"]: check for check in json.loads(run("doctor", "--json")[1])["checks"]}
    for name, packages in EXTRAS.items():
        check = shown[f"extra {name}"]
        assert not check["needed"]
        assert all(package in check["found"] for package in packages)
        assert check["ok"] or f"pip install 'nearfar[{name}]'" in check["remedy"]


def test_the_version_and_the_help_are_printed(run):
    assert run("--version")[1].strip() == "0.1.0"
    code, out, _ = run("--help")
    assert code == 0
    for name in ("demo", "train", "evaluate", "compare", "encode", "index", "search", "doctor"):
        assert f" {name} " in out


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_an_interrupt_exits_with_130_and_the_run_goes_on_to_the_same_weights(place, tmp_path):
    tiny_transformer(tmp_path / "bert")
    command = [sys.executable, "-m", "nearfar", "train", place / "pairs.csv", "--encoder", "bert", "--json"]
    command += ["--set", "batch_size=8", "--set", "epochs=4", "--set", "evaluation.every=1000"]
    command = [str(part) for part in command]
    whole = subprocess.run([*command, "-o", "whole"], cwd=tmp_path, capture_output=True)
    assert whole.returncode in (0, 1), whole.stderr
    process = subprocess.Popen([*command, "-o", "cut"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "cut" / "steps.jsonl"
    deadline = time.monotonic() + 120
    # the log is buffered: its being there says that the steps have begun
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in err
    assert "Traceback" not in err
    assert list((tmp_path / "cut" / "checkpoints").glob("*"))
    again = subprocess.run([*command, "-o", "cut", "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == whole.returncode, again.stderr
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two


def test_a_reader_that_has_had_enough_is_no_error(place):
    listing = " | head -1"
    done = subprocess.run(
        f"{sys.executable} -m nearfar train --print-config{listing}", shell=True, cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_progress_elsewhere_than_on_a_terminal_is_plain_lines(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("nearfar.cli.progress.perf_counter", lambda: float(next(clock)))
    with open(tmp_path / "said", "w+") as stream:
        with shown(stream=stream) as progress:
            for step in range(5):
                progress("train", step, 4, loss=2.5, rate="7 pairs/s")
                progress("dev", step, 4, score=0.25)
            progress("train", 4, 4, note="skipped one")
        text = Path(tmp_path / "said").read_text()
    assert "\x1b" not in text
    assert "train 4/4, loss 2.5, 7 pairs/s, dev 0.25" in text
    assert text.endswith("train: skipped one\n")


QUICK = ["--set", "batch_size=16", "--set", "epochs=1", "--set", "learning_rate=0.05", "--set", "evaluation.dev=20"]


def test_several_files_are_sources_by_their_names(run, place, tmp_path):
    write_pairs(tmp_path / "faq.jsonl", pairs(100, seed=3))
    write_pairs(tmp_path / "tickets.csv", pairs(100, seed=4))
    files = [tmp_path / "faq.jsonl", tmp_path / "tickets.csv"]
    weights = ["--set", "mixture.weights=faq:3,tickets:1"]
    code, out, err = run("train", *files, "-o", tmp_path / "run", "--encoder", "model", *QUICK, *weights)
    assert code in (0, 1), err
    assert "faq.jsonl: 100 pairs" in out
    assert "tickets.csv: 100 pairs" in out
    lines = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    seen = {name: sum(line["pairs"] for line in lines if line["source"] == name) for name in ("faq", "tickets")}
    assert seen["faq"] == pytest.approx(3 * seen["tickets"], abs=4)
    (tmp_path / "b").mkdir()
    write_pairs(tmp_path / "b" / "faq.csv", pairs(50))
    code, _, err = run("train", files[0], tmp_path / "b" / "faq.csv", "-o", tmp_path / "run2")
    assert code == 2
    assert "two files are called 'faq'" in err
    code, _, err = run("train", *files, "-o", tmp_path / "run3", "--encoder", "model", "--set", "mixture.weights=faq:3,tick:1")
    assert code == 2
    assert "there is no source 'tick'" in err


def test_a_file_composes_settings_sources_and_stages(run, place, tmp_path):
    write_pairs(tmp_path / "easy.jsonl", pairs(100, seed=3))
    write_pairs(tmp_path / "hard.csv", pairs(100, seed=4))
    (tmp_path / "run.toml").write_text(
        f"""
        encoder = "{place / "model"}"
        pairs = ["easy.jsonl", "hard.csv"]
        batch_size = 16
        epochs = 1
        learning_rate = 0.05
        evaluation.judge = 20

        [mixture.query_prompts]
        easy = "find: this, please "

        [[stage]]
        name = "all of it"
        [[stage]]
        name = "hard"
        sources = ["hard"]
        temperature = 0.02
        """
    )
    code, out, err = run("train", "--config", tmp_path / "run.toml", "-o", tmp_path / "run")
    assert code in (0, 1), err
    assert "stage-1-all-of-it, stage-2-hard" in out
    second = json.loads((tmp_path / "run" / "stage-2-hard" / "run.json").read_text())
    assert second["identity"]["config"]["temperature"] == 0.02
    assert second["lineage"]["parent"] == json.loads((tmp_path / "run" / "recipe.json").read_text())["stages"][0]["model"]
    assert (tmp_path / "run" / "stage-1-all-of-it" / "report.html").exists()
    assert second["identity"]["config"]["mixture"]["query_prompts"] is None
    text = (tmp_path / "run.toml").read_text().replace("easy = ", "essay = ")
    (tmp_path / "typo.toml").write_text(text)
    code, _, err = run("train", "--config", tmp_path / "typo.toml", "-o", tmp_path / "run4")
    assert code == 2
    assert "there is no source 'essay'" in err
    (tmp_path / "bad.toml").write_text("batchsize = 3\n")
    code, _, err = run("train", "--config", tmp_path / "bad.toml", "-o", tmp_path / "run2")
    assert code == 2
    assert "bad.toml: batchsize: there is no such setting. Did you mean batch_size" in err
    (tmp_path / "bad.toml").write_text("batch_size = \n")
    code, _, err = run("train", "--config", tmp_path / "bad.toml", "-o", tmp_path / "run2")
    assert code == 2
    assert "not valid TOML" in err


def test_a_recipe_is_run_by_name_and_says_what_it_lacks(run, place, tmp_path):
    code, out, err = run(
        "train",
        "--recipe",
        "gpl",
        "pairs.csv",
        "-o",
        tmp_path / "run",
        "--encoder",
        "model",
        "--teacher",
        "model",
        *QUICK,
        "--json",
    )
    assert code in (0, 1), err
    told = json.loads(out)
    assert [stage["name"] for stage in told["stages"]] == ["margins"]
    code, out, _ = run("train", "--list-recipes")
    assert code == 0
    assert "gpl: " in out
    assert "paper: " in out
    code, _, err = run("train", "--recipe", "gpll", "pairs.csv", "-o", tmp_path / "run2")
    assert code == 2
    assert "Did you mean gpl" in err
    code, _, err = run("train", "--recipe", "e5", "pairs.csv", "-o", tmp_path / "run2", "--encoder", "model")
    assert code == 2
    assert "--teacher MODEL" in err
    code, _, err = run("train", "pairs.csv", "-o", tmp_path / "run2", "--teacher", "minilm")
    assert code == 2
    assert "loss.teacher=minilm" in err
    (tmp_path / "texts.txt").write_text("".join(f"{p.query}. {p.positive} {p.query}.\n" for p in pairs(80)))
    code, out, err = run(
        "train",
        "--recipe",
        "gpl",
        tmp_path / "texts.txt",
        "-o",
        tmp_path / "run3",
        "--encoder",
        "model",
        "--teacher",
        "model",
        *QUICK,
    )
    assert code in (0, 1), err
    assert "80 texts without queries" in out


def test_two_runs_are_compared_by_names_that_tell_them_apart(run, place):
    for name in ("one", "two"):
        (place / "many" / name).mkdir(parents=True, exist_ok=True)
        kept = (place / "run" / ("trained" if name == "one" else "start")).with_suffix(".evaluation.json").read_text()
        told = json.loads(kept) | {"system": "trained"}
        (place / "many" / name / "trained.evaluation.json").write_text(json.dumps(told))
    files = [f"many/{name}/trained.evaluation.json" for name in ("one", "two")]
    assert "one vs two" in run("compare", *files)[1]
    assert set(json.loads(run("compare", *files, "--json")[1])["systems"]) == {"one", "two"}


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("r/a/trained.evaluation.json", "r/b/trained.evaluation.json", ("a", "b")),
        ("/x/a.json", "/y/b.json", ("x/a", "y/b")),
        ("minilm.json", "minilm", ("minilm.json", "minilm")),
        ("run/t.json", "t.json", ("run/t.json", "t.json")),
    ],
)
def test_what_tells_two_paths_apart_is_the_parts_that_differ(a, b, names):
    assert tell_apart(a, b) == names


def test_a_run_ends_with_how_to_compare_it(run):
    code, out, _ = run("train", "pairs.csv", "-o", "again", "--encoder", "model", "--set", "epochs=1")
    assert code in (0, 1)
    assert "nearfar compare again/trained.evaluation.json OTHER_RUN/trained.evaluation.json" in out


@pytest.mark.parametrize(
    "command", [["train", "bad.csv", "-o", "none"], ["mine", "bad.csv", "--model", "model", "-o", "none.csv"]]
)
def test_rows_that_are_no_pairs_name_the_command_that_leaves_them_out(run, place, command):
    (place / "bad.csv").write_text("ask,positive\nwhat is it,that it is\nwhy is it,\nwho,\n")
    code, _, err = run(*command, "--columns", "query=ask")
    assert code == 2
    assert "bad.csv:3: 'positive' is empty" in err
    assert "To leave all 2 such rows out: nearfar audit bad.csv --columns query=ask --fix cleaned.csv" in err
    assert run("audit", "bad.csv", "--columns", "query=ask", "--fix", "cleaned.csv")[0] == 1
    assert (place / "cleaned.csv").read_text() == "ask,positive\nwhat is it,that it is\n"
    (place / "bad.v1.csv").write_text("ask,positive\nwhat is it,that it is\nwho,\n")
    again = [command[0], "bad.v1.csv", *command[2:]]
    assert (
        "To leave it out: nearfar audit bad.v1.csv --columns query=ask --fix cleaned.csv"
        in run(*again, "--columns", "query=ask")[2]
    )
    (place / "bad.csv").write_text("ask,positive\n,\n")
    assert "nearfar audit" not in run(*command, "--columns", "query=ask")[2]


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize(("twice", "said"), [(False, "what was finished is kept"), (True, "stopped at once")])
def test_a_second_interrupt_ends_without_a_traceback_whenever_it_comes(twice, said):
    script = f"""
import atexit, os, signal, sys, time
import nearfar.cli as cli

def run(given):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        if {twice}:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

cli._run = run
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "KeyboardInterrupt" not in done.stderr

"""`nearfar audit` as it is typed: what is printed, kept, cleaned, and the exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.cli import main
from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.data.tasks import task_from_pairs, write_task
from nearfar.encoders import StaticEncoder
from nearfar.types import Pair

import faults
from tiny import tiny_tokenizer


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pairs, task = faults.clean_pairs(300), task_from_pairs("task", faults.clean_pairs(60, seed=1))
    write_pairs("clean.jsonl", pairs)
    write_pairs("leaky.jsonl", faults.leak([*pairs, *pairs[:9]], task, 0.2, np.random.default_rng(0))[0])
    write_task("task", task)

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    return call


def test_a_clean_file_exits_with_0_and_says_what_was_not_looked_at(run):
    code, out, _ = run("audit", "clean.jsonl")
    assert code == 0
    assert "Nothing stands above info" in out
    assert "nearfar audit clean.jsonl --task FOLDER" in out
    assert "--model static" in out


def test_a_critical_finding_exits_with_1_and_comes_first_with_its_lines(run):
    code, out, _ = run("audit", "leaky.jsonl", "--task", "task", "-o", "report.json")
    assert code == 1
    first = out.split("\n\n")[1]
    assert first.startswith("CRITICAL  leaked_answers: 12 queries of the task's 60")
    assert "leaky.jsonl:310" in first
    told = json.loads(Path("report.json").read_text())
    assert told["findings"][0]["code"] == "leaked_answers"
    assert json.loads(run("audit", "leaky.jsonl", "--task", "task", "--json")[1]) == told


def test_the_remedy_it_names_mends_it(run):
    code, out, _ = run("audit", "leaky.jsonl", "--task", "task", "--fix", "mended.jsonl")
    assert code == 1
    assert "mended.jsonl: 300 rows kept. Removed: 9 duplicate_pairs, 12 leaked_answers" in out
    assert run("audit", "mended.jsonl", "--task", "task")[0] == 0
    assert read_pairs("mended.jsonl").pairs == read_pairs("clean.jsonl").pairs


def test_answers_come_from_a_pipe_and_are_kept(run, monkeypatch, tmp_path):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    StaticEncoder(table, tiny_tokenizer()).save(tmp_path / "m")
    (tmp_path / "answers").write_text("y\nwhat?\nn\nq\n")
    with open(tmp_path / "answers") as handle:
        monkeypatch.setattr("sys.stdin", handle)
        code, out, _ = run("audit", "clean.jsonl", "--model", "m", "--review", "--count", "10")
    assert code == 0
    assert "by 2 answers" in " ".join(out.split())
    assert "8 of 10 are still to be answered" in out
    assert len(Path("clean.jsonl.review.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl: no such file"),
        (("clean.jsonl", "--task", "nowhere"), "nowhere"),
        (("clean.jsonl", "--model", "no/where"), "no/where"),
        (("clean.jsonl", "--fix", "clean.jsonl"), "never touched"),
        (("clean.jsonl", "--fix", "c.csv"), "in the format of clean.jsonl"),
        (("clean.jsonl", "--review"), "--model static"),
        (("clean.jsonl", "--columns", "query"), "OURS=THEIRS"),
    ],
)
def test_a_mistake_is_named_and_exits_with_2(run, arguments, says):
    code, _, err = run("audit", *arguments)
    assert code == 2
    assert says in err


def test_every_command_it_names_says_the_columns_that_were_given(run):
    pairs = read_pairs("clean.jsonl").pairs
    rows = [{"headline": pair.query, "body": pair.positive} for pair in [*pairs, *pairs[:9]]]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = run("audit", "own.jsonl", "--columns", "query=headline,positive=body")
    named = " ".join(out.split()).split("nearfar audit own.jsonl ")[1:]
    assert len(named) == 3
    assert all(command.startswith("--columns query=headline,positive=body --") for command in named)


def test_a_cleaned_copy_says_what_to_type_next_with_its_columns(run):
    rows = [{"headline": pair.query, "body": pair.positive} for pair in [*read_pairs("clean.jsonl").pairs[:50]] * 2]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = run("audit", "own.jsonl", "--columns", "query=headline,positive=body", "--fix", "mended.jsonl")
    assert out.endswith("Next: nearfar train mended.jsonl --columns query=headline,positive=body -o RUN\n")


def test_a_remedy_names_the_copy_that_was_written_and_an_ending_that_the_file_has(run):
    _, out, _ = run("audit", "leaky.jsonl", "--fix", "my copy.jsonl")
    assert "nearfar audit leaky.jsonl --fix 'my copy.jsonl'" in out
    assert "cleaned" not in out
    Path("leaky.jsonl").rename("leaky.v1.jsonl")
    assert "nearfar audit leaky.v1.jsonl --fix cleaned.jsonl" in run("audit", "leaky.v1.jsonl")[1]


def test_where_nothing_would_be_left_the_findings_are_said_and_then_why_nothing_is_written(run):
    rows = [Pair(f"question {n} of all", f"question {n} of all") for n in range(5)]
    write_pairs("same.jsonl", rows)
    code, out, err = run("audit", "same.jsonl", "--fix", "none.jsonl")
    assert code == 2
    assert "query_is_positive: 5 pairs of 5" in out
    assert "nothing would be left of it (5 rows), so none.jsonl is not written" in err
    assert not list(Path().glob("none*"))
    code, out, err = run("audit", "same.jsonl", "--fix", "none.jsonl", "--json")
    told = json.loads(out)
    assert (code, told["error"]["kind"]) == (2, "BadInput")
    assert "query_is_positive" in [finding["code"] for finding in told["findings"]]


def test_a_file_with_broken_lines_is_audited_and_exits_with_1(run):
    lines = Path("clean.jsonl").read_text().splitlines()
    Path("torn.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:], "nonsense"]) + "\n")
    code, out, _ = run("audit", "torn.jsonl", "--fix", "mended.jsonl")
    assert code == 1
    assert "CRITICAL  refused_rows: 2 rows of 301 are no pairs" in out
    assert "torn.jsonl:2" in out
    assert "torn.jsonl:301" in out
    assert run("audit", "mended.jsonl")[0] == 0
    assert len(read_pairs("mended.jsonl").pairs) == 299

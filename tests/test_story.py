"""The story of `nearfar demo`: small on every run of the tests, whole (with its claim) among the slow ones."""

import functools
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from nearfar.cli import demo, main
from nearfar.cli.app import app
from nearfar.data.sources import read_python_docs
from nearfar.encoders.load import starter_folder
from nearfar.errors import NearfarError

try:
    starter_folder()
except NearfarError as error:
    pytest.skip(f"needs the stock MiniLM: {error}", allow_module_level=True)

SYSTEMS = {"bm25", "static_stock", "minilm_stock", "trained"}
METRICS = {"ndcg@10", "recall@10", "mrr@10"}


def check(told, run):
    assert set(told) == {"pairs", "systems", "comparisons", "seconds", "run"}
    assert set(told["systems"]) == SYSTEMS
    for scores in told["systems"].values():
        assert set(scores) == METRICS
        for found in scores.values():
            assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
    compared = {(c["a"], c["b"], c["metric"]) for c in told["comparisons"]}
    assert compared == {("trained", b, metric) for b in SYSTEMS - {"trained"} for metric in METRICS}
    for c in told["comparisons"]:
        assert set(c) >= {"difference", "low", "high", "p", "better", "worse"}
        a, b = (told["systems"][c[side]][c["metric"]]["mean"] for side in "ab")
        assert c["difference"] == pytest.approx(a - b, abs=1e-9)
    assert Path(told["run"]) == run
    for name in ("run.json", "metrics.json", "steps.jsonl", "report.html", "model", "checkpoints", "index", "task"):
        assert (run / name).exists(), name


@pytest.fixture
def small(monkeypatch):
    """A demo over a few modules of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    names = ("asyncio", "email", "unittest", "json", "logging", "xml", "http", "statistics.py", "pathlib.py", "argparse.py")
    names += ("random.py", "fractions.py", "heapq.py", "csv.py", "shutil.py", "tarfile.py", "zipfile.py", "ssl.py", "typing.py")
    roots = [(name.removesuffix(".py"), library / name) for name in names if (library / name).exists()]
    read = functools.partial(read_python_docs, roots=roots, held_out=200, dev=300, workers=1)
    monkeypatch.setattr(demo, "read_python_docs", read)


def test_the_demo_tells_its_whole_story_and_can_be_told_again(small, tmp_path, capfd):
    run = tmp_path / "run"
    assert main(["demo", "-o", str(run), "--json"]) == 0
    out, err = capfd.readouterr()
    told = json.loads(out)
    check(told, run)
    for number in range(1, 7):
        assert f"\n{number}. " in f"\n{err}"
    assert err.count("   > ") == 3
    for query in demo.SEARCHES:
        assert query in err
    # again, over the first one, on fewer pairs
    assert main(["demo", "-o", str(run), "--pairs", "100"]) == 0
    out, err = capfd.readouterr()
    assert "trained on the first 100" in out
    assert "Next:" in out
    # and what it says to type next works
    assert main(["search", str(run / "index"), "parse an email message", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["searches"][0]["results"]) == 5
    assert main(["compare", str(run), "bm25", "--task", str(run / "task"), "--json"]) in (0, 1)


def test_the_ten_lines_of_the_readme_are_the_example_and_run(tmp_path):
    root = Path(__file__).parents[1]
    script = (root / "examples" / "ten_lines.py").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    code = script.partition('"""\n\n')[2]
    assert (
        "\n".join(f"    {line}" if line else line for line in code.replace("sys\n\nimport", "sys\nimport").splitlines())
        in readme
    )
    lines = [f"how is number {n} written,number {n} is written as {n:b} in the binary system" for n in range(300)]
    (tmp_path / "pairs.csv").write_text("query,positive\n" + "\n".join(lines) + "\n")
    command = [sys.executable, str(root / "examples" / "ten_lines.py"), "pairs.csv", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_every_script_and_command_the_readme_names_is_there():
    root = Path(__file__).parents[1]
    readme = (root / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:benchmarks|examples)/\w+\.py)`", readme):
        assert (root / path).exists(), path
    assert set(re.findall(r"^    nearfar (\w+)", readme, re.M)) <= {
        command.callback.__name__ for command in app.registered_commands
    }  # pyright: ignore


@pytest.mark.slow
def test_the_trained_table_beats_bm25_and_the_stock_table_on_packages_it_never_saw(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "nearfar", "demo", "-o", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    check(told, run)
    assert told["pairs"]["train"] > 10_000
    for c in told["comparisons"]:
        if c["b"] != "minilm_stock" and c["metric"] == "ndcg@10":
            assert c["difference"] > 0
            assert c["p"] < 0.01

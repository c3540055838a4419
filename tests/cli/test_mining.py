"""`nearfar mine`: what it writes, says and refuses."""

import json

import pytest

from nearfar.cli import main
from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.types import Pair

from tiny import tiny_pairs, tiny_tokenizer


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run one command inside a folder with pairs and a model: (exit code, stdout, stderr)."""
    import torch

    from nearfar.encoders import StaticEncoder

    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    StaticEncoder(table, tiny_tokenizer()).save(tmp_path / "model")
    write_pairs(tmp_path / "pairs.csv", tiny_pairs(60))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    return call


def test_a_mined_file_holds_where_each_negative_came_from_and_the_page_says_what_was_done(run, tmp_path):
    code, out, _ = run(
        "mine", "pairs.csv", "--model", "model", "-o", "mined.jsonl", "--sources", "dense:4,bm25:1", "--skip-top", "1"
    )
    assert code == 0
    file = read_pairs(tmp_path / "mined.jsonl")
    assert "not used" not in file.understood
    assert all(len(p.mined) == len(p.negatives) for p in file.pairs)
    assert min(m.rank for p in file.pairs for m in p.mined) == 2
    for said in (
        "negatives asked for",
        "below_positive 0.95",
        "skip_top 1",
        "known positives of the query",
        "margins",
        ".mined.jsonl.cache",
    ):
        assert said in out
    assert (tmp_path / ".mined.jsonl.cache").is_dir()
    code, out, _ = run(
        "mine", "pairs.csv", "--model", "model", "-o", "mined.jsonl", "--below-positive", "off", "--sample", "softmax"
    )
    assert code == 0
    assert "not searched again, kept from before: dense" in out
    assert "found 300 of 300" in out


def test_json_tells_all_of_it(run):
    code, out, err = run(
        "mine", "pairs.csv", "--model", "model", "-o", "mined.parquet", "--json", "--cache", "off", "--count", "2"
    )
    told = json.loads(out)
    assert (code, told["asked"], told["pairs"], told["cache"]) == (0, 120, 60, None)
    assert told["rule"]["count"] == 2
    assert "60 pairs" in err


def test_words_alone_find_negatives_without_a_model(run, tmp_path):
    write_pairs(
        tmp_path / "words.jsonl", [Pair("red cat", "blue dog"), Pair("blue fish", "a red tree"), Pair("tree", "red house")]
    )
    (tmp_path / "more.txt").write_text("red river\ncold cat\n")
    code, _, _ = run("mine", "words.jsonl", "--model", "bm25", "-o", "mined.jsonl", "--corpus", "more.txt", "--count", "3")
    assert code == 0
    assert set(read_pairs(tmp_path / "mined.jsonl").pairs[0].negatives) <= {"a red tree", "red house", "red river", "cold cat"}


def test_where_nothing_is_found_the_file_is_written_and_the_code_is_one(run, tmp_path):
    code, out, _ = run("mine", "pairs.csv", "--model", "model", "-o", "mined.jsonl", "--min-score", "0.9999")
    assert code == 1
    assert "found 0 of 300" in out
    assert "loosen --min-score" in out
    assert len(read_pairs(tmp_path / "mined.jsonl").pairs) == 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pairs.csv", "--model", "model", "-o", "pairs.csv"), "this is the file that is read"),
        (("pairs.csv", "--model", "model", "-o", "out.txt"), "cannot tell the format"),
        (("pairs.csv", "--model", "model", "-o", "o.jsonl", "--below-positive", "near"), "as in 0.95, or off"),
        (("pairs.csv", "--model", "model", "-o", "o.jsonl", "--sources", "denser"), "'denser' is none"),
        (("pairs.csv", "--model", "model", "-o", "o.jsonl", "--count", "0"), "count=0: expected 1 or more"),
        (("pairs.csv", "--model", "bm25", "-o", "o.jsonl", "--margin", "0.1"), "margin: this rule compares a model's scores"),
        (("pairs.csv", "--model", "bm25", "-o", "o.jsonl", "--sources", "dense"), "there is no model"),
        (("none.csv", "--model", "model", "-o", "o.jsonl"), "no such file"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(run, tmp_path, arguments, said):
    code, _, err = run("mine", *arguments)
    assert code == 2
    assert said in err
    assert not (tmp_path / ".o.jsonl.cache").exists()


def test_mining_by_words_alone_says_that_nothing_was_judged(run):
    assert "no negative was dropped as too near the positive" in run("mine", "pairs.csv", "--model", "bm25", "-o", "m.jsonl")[1]
    out = run("mine", "pairs.csv", "--model", "model", "--sources", "bm25", "-o", "n.jsonl")[1]
    assert "no negative was dropped as too near the positive" not in out


def test_a_folder_as_output_is_refused_before_anything_is_encoded(run, tmp_path):
    (tmp_path / "there.jsonl").mkdir()
    code, out, err = run("mine", "pairs.csv", "--model", "model", "-o", "there.jsonl")
    assert code == 2
    assert "this is a folder. Name the file to write, as in there.jsonl/mined.jsonl" in out + err
    assert not list(tmp_path.glob("*.cache")) + list(tmp_path.glob(".*.cache"))


def test_one_pair_is_said_to_be_one(run, tmp_path):
    write_pairs(tmp_path / "one.jsonl", [Pair("red cat", "blue dog")])
    (tmp_path / "more.txt").write_text("red river\n")
    _, out, _ = run("mine", "one.jsonl", "--model", "bm25", "-o", "m.jsonl", "--corpus", "more.txt", "--count", "1")
    assert "found 1 of 1 negative asked for (100.0 %): 1 pair, 2 documents" in out
    assert "more.txt: 1 more document\n" in out
    assert "m.jsonl: 1 pair." in out
    assert "one.jsonl: 1 pair, query" in out

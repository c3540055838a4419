"""`nearfar export` and `nearfar distill`: what they print, what they refuse, and the exit codes scripts rely on."""

import json

import pytest
import torch

from nearfar.cli import main
from nearfar.data.pairs import write_pairs
from nearfar.data.tasks import task_from_pairs, write_task
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.exporting import OnnxModel, graph

from tiny import tiny_pairs, tiny_tokenizer, tiny_transformer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    weight = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    StaticEncoder(weight, tiny_tokenizer()).save(folder / "table")
    tiny_transformer(folder / "tiny")
    write_pairs(folder / "pairs.csv", tiny_pairs(80))
    write_task(folder / "task", task_from_pairs("task", tiny_pairs(60, seed=1)))
    (folder / "texts.txt").write_text("the cat\nopen a file and read it\n")
    return folder


@pytest.fixture
def call(place, monkeypatch, capfd):
    """Run one command inside the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(place)

    def run(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    return run


def test_int8_prints_its_cosines_and_warns_where_they_are_low_without_failing(call, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(graph, "LOW_COSINE", 1.1)
    code, said, err = call("export", "table", "--to", "onnx-int8", "-o", out, "--texts", "texts.txt")
    assert code == 0
    assert "cosine to the model smallest 0.9" in said
    assert "on 2 texts" in said
    assert "warning: the smallest cosine" in err
    monkeypatch.setattr(graph, "LOW_COSINE", 0.1)
    code, said, err = call("export", "table", "--to", "onnx-int8", "-o", out, "--json")
    assert code == 0
    assert json.loads(said)["quantized"]["smallest_cosine"] > 0.9
    assert "warning" not in err
    assert OnnxModel(out).dim == 16


def test_an_unfaithful_export_exits_with_one_and_leaves_nothing(call, tmp_path, monkeypatch):
    written = graph.write_graph

    def other(encoder, path):
        moved = StaticEncoder(encoder.weight + 0.1, encoder.tokenizer)
        return written(moved, path)

    monkeypatch.setattr(graph, "write_graph", other)
    code, said, err = call("export", "table", "-o", tmp_path / "out")
    assert (code, said) == (1, "")
    assert "differ from the model's by up to" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_exported_with_its_card(call, tmp_path):
    arguments = ("export", "tiny", "--to", "sentence-transformers", "-o", tmp_path / "out", "--dim", "8", "--language", "en")
    code, said, _ = call(*arguments, "--json")
    assert code == 0
    assert json.loads(said)["dim"] == 8
    assert 'language: "en"' in (tmp_path / "out" / "README.md").read_text()
    assert load_encoder(tmp_path / "out").dim == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("export", "table", "--to", "tflite", "-o", "new"), "expected onnx, onnx-int8, sentence-transformers"),
        (("export", "table", "-o", "task"), "the folder holds something else"),
        (("export", "nowhere/at/all", "-o", "new"), "nowhere/at/all"),
        (("export", "table", "-o", "new", "--dim", "99"), "99"),
        (("distill", "table", "-o", "new"), "token table"),
        (("distill", "tiny", "-o", "task"), "the folder holds something else"),
        (("distill", "tiny", "-o", "new", "--dim", "999"), "dim=999"),
        (("distill", "tiny", "-o", "new", "--texts", "texts.txt", "--pairs", "pairs.csv"), "Give one of them"),
    ],
)
def test_bad_usage_exits_with_two_and_leaves_nothing(call, place, arguments, says):
    before = sorted(place.iterdir())
    code, said, err = call(*arguments)
    assert (code, said) == (2, "")
    assert says in err
    assert sorted(place.iterdir()) == before


def test_distill_takes_as_many_dimensions_as_a_small_teacher_has(call, tmp_path):
    code, said, _ = call("distill", "tiny", "-o", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(said)["dim"] == 32


def test_distill_prints_the_table_and_its_score_beside_its_teachers(call, tmp_path):
    out = tmp_path / "out"
    code, said, _ = call("distill", "tiny", "-o", out, "--dim", "8", "--pairs", "pairs.csv", "--task", "task")
    assert code == 0
    size = tiny_tokenizer().get_vocab_size()
    assert f"{size:,} tokens x 8 numbers" in said
    assert "table vs tiny" in said
    code, said, _ = call("distill", "tiny", "-o", out, "--dim", "8", "--texts", "texts.txt", "--task", "task", "--json")
    assert code == 0
    told = json.loads(said)
    assert (told["vocabulary"], told["dim"], set(told["systems"])) == (size, 8, {"tiny", "table"})
    assert set(told["systems"]["table"]["ndcg@10"]) == {"mean", "low", "high"}
    assert told["comparisons"][0]["a"] == "table"
    assert call("evaluate", out, "--task", "task")[0] == 0

"""A card says what a run recorded, the verdict whatever it is, and runs as it stands; what nobody recorded it calls unknown."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from nearfar.data.pairs import write_pairs
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.errors import BadInput, Damaged
from nearfar.exporting import export_folder, export_onnx, write_card
from nearfar.files import hash_file, read_json
from nearfar.training import parse_settings, train

from tiny import tiny_pairs, tiny_tokenizer, tiny_transformer

SETTINGS = ["batch_size=16", "epochs=2", "learning_rate=0.05", "evaluation.dev=20", "evaluation.judge=40", "temperature=0.07"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, and a run that went on from it."""
    folder = tmp_path_factory.mktemp("card")
    weight = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    StaticEncoder(weight, tiny_tokenizer(), max_length=32).save(folder / "model")
    write_pairs(folder / "pairs.csv", tiny_pairs(200))
    inputs = {str(folder / "pairs.csv"): hash_file(folder / "pairs.csv")}
    config = parse_settings(SETTINGS)
    train(tiny_pairs(200), out=folder / "first", encoder=folder / "model", config=config, inputs=inputs)
    train(tiny_pairs(200), out=folder / "second", encoder=folder / "first", config=config, inputs=inputs)
    return folder


@pytest.fixture
def run(place, tmp_path):
    """A copy of the first run, to be changed."""
    return shutil.copytree(place / "first", tmp_path / "first")


def head(text):
    import yaml

    return yaml.safe_load(text.split("---\n")[1])


def snippets(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_a_card_tells_what_the_run_recorded(place):
    text = write_card(place / "first").read_text(encoding="utf-8")
    record, metrics = read_json(place / "first" / "run.json"), read_json(place / "first" / "metrics.json")
    trained, compared = metrics["systems"]["trained"]["ndcg@10"], metrics["comparisons"][0]
    for told in (
        f"{record['trained_on']:,} pairs",
        f"| pairs.csv | {hash_file(place / 'pairs.csv')} |",
        record["identity"]["pairs"]["content"],
        record["start"],
        "| temperature | 0.07 |",
        "| pairs a batch | 16 |",
        "up to 15 positives of others",
        f"| steps | {metrics['steps']} |",
        f"| step of these weights | {metrics['best_step']} |",
        f"{trained['mean']:.3f} [{trained['low']:.3f}, {trained['high']:.3f}]",
        f"{compared['difference']:+.3f} [{compared['low']:+.3f}, {compared['high']:+.3f}]",
        "cut to 32 tokens",
        "## Licence",
    ):
        assert told in text
    assert str(place) not in text


def test_the_head_is_what_the_hub_reads(place):
    found = head(write_card(place / "first", language="en").read_text(encoding="utf-8"))
    assert found["language"] == "en"
    assert found["library_name"] == "sentence-transformers"
    assert found["pipeline_tag"] == "sentence-similarity"
    assert "nearfar" in found["tags"]
    assert not {"base_model", "license"} & set(found)  # neither is known
    assert "language" not in head(write_card(place / "first").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("improved", "is shown to be better than"),
        ("not shown", "is not shown to be better than"),
        ("worse", "is worse than the model it started from"),
        ("not judged", "was not judged"),
    ],
)
def test_every_verdict_is_said_plainly(run, verdict, says):
    metrics = read_json(run / "metrics.json") | {"verdict": verdict}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = write_card(run).read_text(encoding="utf-8")
    assert f"**It {says}" in text
    assert sum(f"**It {other}" in text for other in ("is shown", "is not shown", "is worse", "was not judged")) == 1


def test_a_run_whose_start_was_kept_and_one_that_has_not_ended_say_so(run):
    metrics = read_json(run / "metrics.json") | {"best_step": 0}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "These weights are those it started from" in write_card(run).read_text(encoding="utf-8")
    (run / "metrics.json").unlink()
    assert "the run had not ended" in write_card(run).read_text(encoding="utf-8")


def test_what_a_run_knows_of_itself_beyond_its_verdict_is_told(run):
    more = {
        "conclusion": ["NOT SHOWN: ...", "Outside the domain little changed."],
        "reasons": [{"found": "Few pairs.", "advice": "More."}],
    }
    (run / "metrics.json").write_text(json.dumps(read_json(run / "metrics.json") | more))
    record = read_json(run / "run.json")
    record["identity"]["config"] |= {"loss": {"name": "gist", "dims": [16, 8], "guide": str(run / "model")}}
    (run / "run.json").write_text(json.dumps(record | {"lineage": {"recipe": "e5", "stage": "tune", "of": ["a", "b"]}}))
    text = write_card(run).read_text(encoding="utf-8")
    for told in (
        "Outside the domain little changed.",
        "- Few pairs.",
        "| loss | `gist` |",
        "| Matryoshka: trained to be cut to | [16, 8] |",
        "| guide, which says what is no negative | model |",
        "It is a stage of several: recipe e5, stage tune.",
    ):
        assert told in text
    assert "NOT SHOWN" not in text


def test_lineage_names_every_run_before_and_what_each_started_from(place):
    text = write_card(place / "second").read_text(encoding="utf-8")
    first = read_json(place / "first" / "run.json")["start"]
    second = read_json(place / "second" / "run.json")["start"]
    assert (
        f"- run `first` (its verdict: {read_json(place / 'first' / 'metrics.json')['verdict']}), fingerprint `{second}`\n"
        in text
    )
    assert f"- then `model`, fingerprint `{first}`\n" in text


def test_an_ancestor_that_is_another_by_now_is_not_taken_for_it(place, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(place / name, tmp_path / name)
    record = read_json(tmp_path / "second" / "run.json") | {"encoder": "first"}
    (tmp_path / "second" / "run.json").write_text(json.dumps(record))
    evaluation = read_json(tmp_path / "first" / "trained.evaluation.json") | {"model_fingerprint": "sha256:0"}
    (tmp_path / "first" / "trained.evaluation.json").write_text(json.dumps(evaluation))
    assert "not known to be the same" in write_card(tmp_path / "second").read_text(encoding="utf-8")


def test_a_run_that_names_itself_does_not_go_round(run):
    record = read_json(run / "run.json") | {"encoder": "first"}
    (run / "run.json").write_text(json.dumps(record))
    assert write_card(run).read_text(encoding="utf-8").count("- `first`") == 1


def test_the_examples_of_a_card_run_as_they_stand_to_one_result(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export_folder(load_encoder(place / "first"), tmp_path / "out", name=place / "first")
    monkeypatch.chdir(tmp_path)
    found = snippets((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert len(found) == 2
    rows = []
    for snippet in found:
        exec(compile(snippet, "card", "exec"), {})
        rows.append([float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", capsys.readouterr().out)])
    assert len(rows[0]) == 2
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-3)


@pytest.mark.parametrize("kind", ["table", "transformer"])
def test_the_examples_of_a_graph_run_as_they_stand_to_one_result(place, tmp_path, monkeypatch, capsys, kind):
    name = place / "first" if kind == "table" else tiny_transformer(tmp_path / "tiny")
    export_onnx(load_encoder(name), tmp_path / "out", name=name)
    monkeypatch.chdir(tmp_path)
    found = snippets((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert len(found) == 2
    rows = []
    for snippet in found:
        exec(compile(snippet, "card", "exec"), {})
        rows.append(capsys.readouterr().out)
    assert rows[0] == rows[1]


def test_what_nobody_recorded_is_called_unknown(place, tmp_path):
    export_folder(load_encoder(place / "model"), tmp_path / "out", name=place / "model")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.count("Not known: there is no record of a run") == 3
    assert "Exported from `model`." in text
    assert "base_model" not in text


def test_the_folder_inside_a_run_is_that_run(place, tmp_path):
    export_folder(load_encoder(place / "first" / "model"), tmp_path / "out", name=place / "first" / "model", dim=4)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert read_json(place / "first" / "run.json")["start"] in text
    assert "cut to the first 4 dimensions" in text
    assert "measured before the rows were cut" in text


def test_a_card_changes_no_vector(run):
    before = load_encoder(run).fingerprint()
    write_card(run)
    assert load_encoder(run).fingerprint() == before


def test_a_folder_that_is_no_run_and_a_torn_record_are_named(place, run):
    with pytest.raises(BadInput, match="no run with a model"):
        write_card(place / "model")
    (run / "metrics.json").write_text("{")
    with pytest.raises(Damaged, match=r"metrics\.json"):
        write_card(run)

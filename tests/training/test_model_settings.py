"""Settings of the model in a run: applied, kept over a resume bit for bit, refused where they make no sense."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from nearfar.data.tasks import task_from_pairs
from nearfar.embedding import embed
from nearfar.encoders import TransformerEncoder, TwoTowerEncoder, load_encoder
from nearfar.encoders.lora import has_adapters
from nearfar.errors import BadConfig
from nearfar.training import guard, parse_settings, train
from nearfar.training.checkpoint import load_checkpoint
from nearfar.training.config import Config, config_from_json

from tiny import tiny_pairs, tiny_transformer

LORA = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
SMALL = ["batch_size=16", "epochs=1", "learning_rate=0.002", "evaluation.dev=10", "evaluation.judge=10", "checkpoint.every=2"]
SHAPES = {
    "head": ["model.head=mlp", "model.head_dim=8", "model.dropout=0"],
    "towers": ["model.towers=separate", "model.freeze=document.*", "model.truncate_dim=8"],
    "frozen": ["model.freeze_layers=1", "model.freeze_embeddings=true"],
    "adapters": ["lora.rank=2", "lora.targets=all-linear", "lora.dropout=0.1", "model.head=linear"],
}


def weights(run):
    newest = max((run / "checkpoints").iterdir())
    return load_checkpoint(newest).tensors


@pytest.mark.parametrize("shape", [*(s for s in SHAPES if s != "adapters"), pytest.param("adapters", marks=LORA)])
def test_a_run_of_any_shape_goes_on_to_the_same_weights_after_a_kill(tmp_path, shape):
    folder, pairs = tiny_transformer(tmp_path / "t"), tiny_pairs(100)
    config = parse_settings([*SMALL, *SHAPES[shape]])
    whole = train(pairs, out=tmp_path / "whole", encoder=str(folder), config=config)
    assert whole.steps >= 4
    told = json.loads((tmp_path / "whole" / "run.json").read_text())["identity"]["config"]
    assert config_from_json(told) == whole.config

    class Killed(Exception):
        pass

    def kill(stage, done, total, **facts):
        if stage == "train" and done == 3:
            raise Killed

    with pytest.raises(Killed):
        train(pairs, out=tmp_path / "cut", encoder=str(folder), config=config, progress=kill)
    train(pairs, out=tmp_path / "cut", encoder=str(folder), config=config, resume=True)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    ends = [load_encoder(tmp_path / run) for run in ("whole", "cut")]
    assert ends[0].fingerprint() == ends[1].fingerprint()


def test_a_run_with_towers_and_a_head_saves_what_sentence_transformers_loads(tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = parse_settings([*SMALL, "model.towers=separate", "model.head=linear", "model.head_dim=8"])
    train(tiny_pairs(100), out=tmp_path / "run", encoder=str(tiny_transformer(tmp_path / "t")), config=config)
    found = load_encoder(tmp_path / "run")
    assert isinstance(found, TwoTowerEncoder)
    texts = ["the cat", "open a file"]
    theirs = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert np.abs(embed(found, texts, role="query") - theirs.encode_query(texts)).max() < 1e-5
    assert np.abs(embed(found, texts) - theirs.encode_document(texts)).max() < 1e-5


@LORA
def test_a_run_with_adapters_starts_from_the_base_and_keeps_only_adapters_in_its_checkpoints(tmp_path):
    folder = tiny_transformer(tmp_path / "t")
    train(tiny_pairs(100), out=tmp_path / "run", encoder=str(folder), config=parse_settings([*SMALL, "lora.rank=2"]))
    assert load_encoder(tmp_path / "run" / "start").fingerprint() == load_encoder(folder).fingerprint()
    assert all("lora_" in name for name in weights(tmp_path / "run"))
    best = load_encoder(tmp_path / "run")
    assert isinstance(best, TransformerEncoder)
    shutil.rmtree(tmp_path / "run" / "model" / "adapter")
    assert load_encoder(tmp_path / "run").fingerprint() == best.fingerprint()


@LORA
def test_a_run_with_adapters_is_judged_in_one_form_before_and_after(tmp_path, monkeypatch):
    seen, plain = [], guard.evaluate

    def watch(system, task, **options):
        seen.append((task.name, options.get("name"), has_adapters(system.model)))
        return plain(system, task, **options)

    monkeypatch.setattr(guard, "evaluate", watch)
    task, before, dev = (task_from_pairs(name, tiny_pairs(40, seed=3)) for name in ("task", "before", "dev"))
    settings = [*SMALL, "lora.rank=2", "compute.precision=bfloat16", "evaluation.dev=0", "evaluation.outside_texts=0"]
    folder, config = tiny_transformer(tmp_path / "t"), parse_settings(settings)
    result = train(tiny_pairs(64), out=tmp_path / "run", encoder=str(folder), config=config, task=task, retain=before)
    assert result.best_step == result.steps > 0
    for name in ("task", "before"):
        assert [(when, adapted) for told, when, adapted in seen if told == name] == [("start", False), ("trained", False)]
    train(tiny_pairs(64), out=tmp_path / "chosen", encoder=str(folder), config=config, task=task, dev=dev)
    assert {adapted for told, _, adapted in seen if told == "dev"} == {True}


def test_an_encoder_given_as_a_value_goes_on_as_well(tmp_path):
    config = parse_settings([*SMALL, "model.head=linear", "model.dropout=0"])
    folder = tiny_transformer(tmp_path / "t")
    first = train(tiny_pairs(100), out=tmp_path / "run", encoder=load_encoder(folder), config=config)
    again = train(tiny_pairs(100), out=tmp_path / "run", encoder=load_encoder(folder), config=config, resume=True)
    assert again.dev_scores == first.dev_scores


@pytest.mark.parametrize(
    "setting",
    [
        "model.head=mlp",
        "model.dropout=0.1",
        "model.freeze_layers=1",
        "model.freeze_embeddings=true",
        "lora.rank=2",
        "model.freeze=x*",
    ],
)
def test_a_static_encoder_refuses_settings_of_a_transformer(tmp_path, setting):
    from nearfar.encoders import StaticEncoder

    from tiny import tiny_tokenizer

    table = torch.randn(tiny_tokenizer().get_vocab_size(), 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(BadConfig, match=setting.partition("=")[0].replace(".", r"\.")):
        train(
            tiny_pairs(60),
            out=tmp_path / "run",
            encoder=StaticEncoder(table, tiny_tokenizer()),
            config=parse_settings([setting]),
        )


@pytest.mark.parametrize(
    "setting",
    [
        "model.head=deep",
        "model.head_dim=0",
        "model.head_dim=8",
        "model.truncate_dim=0",
        "model.dropout=1",
        "model.freeze_layers=-1",
        "lora.rank=-1",
        "lora.alpha=0",
        "lora.dropout=1",
        "lora.targets=query",
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(setting):
    name = "lora.rank" if setting == "lora.targets=query" else setting.partition("=")[0]
    with pytest.raises(BadConfig, match=name.replace(".", r"\.")):
        parse_settings([setting])


def test_adapters_learn_faster_by_default():
    from nearfar.training.config import resolve

    rates = [resolve(c, is_static=False, pairs=100).learning_rate for c in (Config(), parse_settings(["lora.rank=4"]))]
    assert rates == [2e-5, 2e-4]

"""TensorBoard: read back by its own reader, every step is there once, also after a resume."""

import json
import sys

import pytest
import torch

from nearfar.encoders import StaticEncoder
from nearfar.errors import Missing
from nearfar.training import parse_settings, train

from tiny import tiny_pairs, tiny_tokenizer

SETTINGS = ["batch_size=16", "epochs=3", "evaluation.dev=20", "evaluation.judge=30", "checkpoint.every=5", "evaluation.every=4"]
CONFIG = parse_settings([*SETTINGS, "watch.tensorboard=true"])


def static():
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(table, tiny_tokenizer())


def read(run):
    """{tag: [(step, value)]} as TensorBoard shows them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_the_scalars_are_those_of_the_log_once_each_also_after_a_resume(tmp_path):
    def stop(stage, done, total, **facts):
        if stage == "train" and done == 9:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tiny_pairs(), out=tmp_path / "run", encoder=static(), config=CONFIG, progress=stop)
    assert [step for step, _ in read(tmp_path / "run")["train/loss"]] == list(range(1, 9))
    result = train(tiny_pairs(), out=tmp_path / "run", encoder=static(), config=CONFIG, resume=True)
    told = read(tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    for name in ("loss", "learning_rate", "gradient_norm", "temperature"):
        assert told[f"train/{name}"] == [(s["step"], pytest.approx(s[name], rel=1e-6)) for s in steps]
    assert [step for step, _ in told["train/pairs_per_second"]] == list(range(1, result.steps + 1))
    assert told["train/dev_score"] == [(s.step, pytest.approx(s.score, rel=1e-6)) for s in result.dev_scores if s.step]


def test_a_run_that_is_watched_ends_with_the_same_weights_and_may_be_watched_from_a_resume_on(tmp_path):
    plain = parse_settings(SETTINGS)
    for name, config in (("plain", plain), ("watched", CONFIG)):
        train(tiny_pairs(), out=tmp_path / name, encoder=static(), config=config)
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("plain", "watched"))
    assert one == two
    assert not (tmp_path / "plain" / "tensorboard").exists()
    train(tiny_pairs(), out=tmp_path / "plain", encoder=static(), config=CONFIG, resume=True)


def test_without_the_package_the_run_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(Missing, match=r"pip install 'nearfar\[tracking\]'"):
        train(tiny_pairs(), out=tmp_path / "run", encoder=static(), config=CONFIG)
    assert not (tmp_path / "run").exists()

"""A run: what it writes, refuses, keeps, and that it goes on bit for bit after being killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from nearfar.embedding import embed
from nearfar.encoders import StaticEncoder, TransformerEncoder, load_encoder
from nearfar.errors import BadConfig, BadInput, Damaged, Diverged, Mismatch
from nearfar.files import hash_file
from nearfar.training import Config, parse_settings, train
from nearfar.training.record import read_events
from nearfar.types import Pair

from tiny import WORDS, tiny_tokenizer, tiny_transformer
from tiny import tiny_pairs as pairs


def static(seed=0):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(table, tiny_tokenizer())


SMALL = parse_settings(["batch_size=16", "epochs=3", "learning_rate=0.05", "evaluation.dev=20", "evaluation.judge=30"])


def test_training_teaches_what_only_the_pairs_say_and_says_so(tmp_path):
    result = train(pairs(400), out=tmp_path / "run", encoder=static(), config=replace(SMALL, epochs=8))
    assert result.verdict == "improved"
    assert result.comparison is not None
    assert result.comparison.p < 0.01
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert told["systems"]["trained"]["ndcg@10"]["mean"] > 2 * told["systems"]["start"]["ndcg@10"]["mean"]
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == list(range(1, result.steps + 1))
    assert steps[-1]["loss"] < steps[0]["loss"] / 2


def test_a_run_that_teaches_nothing_keeps_the_start_and_is_not_called_an_improvement(tmp_path):
    nonsense = [Pair(p.query, q.positive) for p, q in zip(pairs(200), reversed(pairs(200)), strict=True)]
    config = replace(SMALL, learning_rate=1e-12, epochs=1)
    result = train(nonsense, out=tmp_path / "run", encoder=static(), config=config)
    assert result.verdict == "not shown"
    assert result.best_step == 0
    assert load_encoder(tmp_path / "run").fingerprint() == load_encoder(tmp_path / "run" / "start").fingerprint()


def test_no_held_out_text_is_trained_on(tmp_path):
    train(pairs(), out=tmp_path / "run", encoder=static(), config=SMALL)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["trained_on"] + told["held_out"] == 160
    assert told["held_out"] == 50


def test_the_same_inputs_give_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(pairs(), out=tmp_path / name, encoder=static(), config=replace(SMALL, seed=seed))
    a, b, c = (hash_file(tmp_path / n / "model" / "model.safetensors") for n in "abc")
    assert a == b
    assert a != c


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    encoder = load_encoder(tiny_transformer(tmp_path / "t"))
    train(pairs(90), out=tmp_path / "run", encoder=encoder, config=replace(SMALL, epochs=1, learning_rate=1e-3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_hard_negatives_and_a_learned_temperature_are_trained_on(tmp_path):
    made = [replace(p, negatives=(f"{WORDS[i % 50]} never",) * (i % 3)) for i, p in enumerate(pairs())]
    config = replace(SMALL, learn_temperature=True)
    train(made, out=tmp_path / "run", encoder=static(), config=config)
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert steps[0]["temperature"] == pytest.approx(0.05)
    assert steps[-1]["temperature"] != steps[0]["temperature"]


def test_a_folder_that_holds_something_is_refused(tmp_path):
    train(pairs(90), out=tmp_path / "run", encoder=static(), config=replace(SMALL, epochs=1))
    with pytest.raises(BadInput, match="--resume"):
        train(pairs(90), out=tmp_path / "run", encoder=static(), config=SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(BadInput, match=r"thesis\.tex"):
        train(pairs(90), out=tmp_path / "mine", encoder=static(), config=SMALL)
    with pytest.raises(BadInput, match="a file"):
        train(pairs(90), out=tmp_path / "mine" / "thesis.tex", encoder=static(), config=SMALL)


def test_a_run_goes_on_only_with_what_it_began_with(tmp_path):
    config = replace(SMALL, epochs=1, evaluation=replace(SMALL.evaluation, dev=4, judge=4))
    train(pairs(90), out=tmp_path / "run", encoder=static(), config=config)
    with pytest.raises(Mismatch, match=r"learning_rate \(was 0\.05, now 0\.1\)"):
        train(pairs(90), out=tmp_path / "run", encoder=static(), config=replace(config, learning_rate=0.1), resume=True)
    with pytest.raises(Mismatch, match="the pairs"):
        train(pairs(89), out=tmp_path / "run", encoder=static(), config=config, resume=True)
    with pytest.raises(Mismatch, match="the encoder"):
        train(pairs(90), out=tmp_path / "run", encoder=static(9), config=config, resume=True)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pairs_are_refused(tmp_path, count):
    with pytest.raises(BadInput, match="at least two"):
        train(pairs(10)[:count], out=tmp_path / "run", encoder=static())


def test_two_pairs_are_trained_on_and_not_judged(tmp_path):
    result = train(pairs(2), out=tmp_path / "run", encoder=static())
    assert (result.verdict, result.steps) == ("not judged", 4)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(tmp_path):
    encoder = static()
    with torch.no_grad():
        encoder.weight[tiny_tokenizer().token_to_id(WORDS[0])] = torch.nan
    made = [Pair(f"{WORDS[0]} {p.query}", p.positive) for p in pairs(60)]
    config = replace(SMALL, evaluation=replace(SMALL.evaluation, dev=0, judge=0))
    with pytest.raises(Diverged, match="step 1"):
        train(made, out=tmp_path / "run", encoder=encoder, config=config)
    assert len(json.loads((tmp_path / "run" / "diverged.json").read_text())["pairs"]) >= 2


def poisoned():
    """A table whose row of the token 'wake' is not a number, and pairs of which the 41st alone says it."""
    encoder = static()
    with torch.no_grad():
        encoder.weight[tiny_tokenizer().token_to_id("wake")] = torch.nan
    made = [p for p in pairs(200) if "wake" not in f"{p.query} {p.positive}"][:60]
    made[40] = replace(made[40], query=f"wake {made[40].query}", negatives=("never",))
    return encoder, made


def test_divergence_names_the_pair_its_line_the_parameter_and_the_checkpoint_before(tmp_path):
    encoder, made = poisoned()
    config = parse_settings(["batch_size=4", "checkpoint.every=1", "evaluation.dev=0", "evaluation.judge=0", "seed=3"])
    where = [f"pairs.csv:{number + 2}" for number in range(len(made))]
    with pytest.raises(Diverged) as error:
        train(made, out=tmp_path / "run", encoder=encoder, config=config, where=where)
    told = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert [(p["pair"], p["where"], p["negatives"]) for p in told["pairs"] if not p["finite"]] == [
        (41, "pairs.csv:42", ["never"])
    ]
    assert sum(p["finite"] for p in told["pairs"]) == 3
    assert told["parameter_not_finite"] == f"weight (16 of {encoder.weight.numel():,} numbers)"
    assert told["checkpoint"] == f"checkpoints/step-{told['step'] - 1:08d}"
    for words in ("weight (16 of", "pairs.csv:42", f"checkpoint of step {told['step'] - 1} is whole", "new folder"):
        assert words in str(error.value)
    # the same settings come to the same step, and another rate is refused with a way out
    with pytest.raises(Diverged, match=f"step {told['step']}"):
        train(made, out=tmp_path / "run", encoder=poisoned()[0], config=config, resume=True)
    with pytest.raises(Mismatch, match="It diverged, and would again") as refused:
        train(made, out=tmp_path / "run", encoder=poisoned()[0], config=replace(config, learning_rate=0.01), resume=True)
    assert "another folder" in str(refused.value)


def test_a_wrong_setting_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(BadConfig, match="epochs"):
        train(pairs(), out=tmp_path / "run", encoder=static(), config=Config(epochs=0))
    assert not (tmp_path / "run").exists()


SCRIPT = """
import sys, os, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_train as t
kind, out = sys.argv[2], Path(sys.argv[3])
def slow(stage, done, total, **facts):
    print(stage, done, flush=True)
    if stage in ("train", "dev"):
        time.sleep(0.02)
t.kill_me(kind, out, slow)
"""


def kill_me(kind, out, progress):
    """One run, the same whenever and wherever it is called."""
    config = parse_settings(["checkpoint.every=3", "evaluation.every=4"], SMALL)
    if kind == "static":
        encoder: StaticEncoder | TransformerEncoder = static()
    else:
        found = load_encoder(tiny_transformer(out.parent / "teacher"))
        assert isinstance(found, TransformerEncoder)
        assert found.model.config.hidden_dropout_prob > 0
        encoder, config = found, replace(config, learning_rate=1e-3, epochs=2)
    return train(pairs(), out=out, encoder=encoder, config=config, resume=True, progress=progress)


def _spawn(kind, out, script):
    here = os.path.dirname(__file__)
    # before what was there: the code under test may come from it
    path = os.pathsep.join([here, os.path.dirname(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, str(script), here, kind, str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _kill_at(process, wanted):
    """SIGKILL as soon as the process says it has come to `wanted`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == wanted:
            time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_run_killed_at_three_moments_ends_with_the_weights_of_one_left_alone(tmp_path, kind):
    script = tmp_path / "run_it.py"
    script.write_text(SCRIPT)
    alone = tmp_path / "alone"
    process = _spawn(kind, alone, script)
    process.communicate()
    assert process.returncode == 0
    killed = tmp_path / "killed"
    for moment in ("train 2", "train 7", "dev 12"):
        _kill_at(_spawn(kind, killed, script), moment)
    [newest] = sorted((killed / "checkpoints").glob("step-*"))[-1:]
    (newest / "state.safetensors").write_bytes(b"torn by the power cut")
    process = _spawn(kind, killed, script)
    process.communicate()
    assert process.returncode == 0
    for name in ("model/model.safetensors", "start/model.safetensors"):
        assert hash_file(alone / name) == hash_file(killed / name)
    assert [e["event"] for e in read_events(killed)].count("damaged") == 1
    ends = [sorted((run / "checkpoints").glob("step-*"))[-1] for run in (alone, killed)]
    a, b = (load_file(end / "state.safetensors") for end in ends)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (alone / "steps.jsonl").read_text() == (killed / "steps.jsonl").read_text()
    assert (alone / "metrics.json").read_text() == (killed / "metrics.json").read_text()


def test_an_interrupt_saves_the_step_and_the_run_goes_on(tmp_path):
    moments = []

    def interrupt(stage, done, total, **facts):
        if stage == "train" and done == 5 and not moments:
            moments.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"after step 5 of 21.*step-00000005.*--resume"):
        train(pairs(), out=tmp_path / "run", encoder=static(), config=SMALL, progress=interrupt)
    assert (tmp_path / "run" / "checkpoints" / "step-00000005").is_dir()
    train(pairs(), out=tmp_path / "run", encoder=static(), config=SMALL, resume=True)
    train(pairs(), out=tmp_path / "alone", encoder=static(), config=SMALL)
    ours, theirs = (hash_file(tmp_path / n / "model" / "model.safetensors") for n in ("run", "alone"))
    assert ours == theirs


def test_a_finished_run_resumed_changes_nothing(tmp_path):
    train(pairs(), out=tmp_path / "run", encoder=static(), config=SMALL)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    train(pairs(), out=tmp_path / "run", encoder=static(), config=SMALL, resume=True)
    for name in ("metrics.json", "steps.jsonl", "run.json", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()
    assert embed(load_encoder(tmp_path / "run"), ["the cat"]).shape == (1, 16)


def test_a_run_goes_on_though_checkpoints_are_now_written_at_other_steps(tmp_path):
    train(pairs(), out=tmp_path / "run", encoder=static(), config=SMALL)
    before = hash_file(tmp_path / "run" / "model" / "model.safetensors")
    rarely = replace(SMALL, checkpoint=replace(SMALL.checkpoint, every=7))
    train(pairs(), out=tmp_path / "run", encoder=static(), config=rarely, resume=True)
    assert hash_file(tmp_path / "run" / "model" / "model.safetensors") == before


def test_an_encoder_given_as_a_value_stays_as_it_is(tmp_path):
    encoder = load_encoder(tiny_transformer(tmp_path / "t"))
    before, mode = encoder.fingerprint(), encoder.training
    config = replace(SMALL, epochs=1, learning_rate=1e-2)
    train(pairs(60), out=tmp_path / "a", encoder=encoder, config=config)
    assert (encoder.fingerprint(), encoder.training) == (before, mode)
    assert all(p.grad is None for p in encoder.parameters())
    train(pairs(60), out=tmp_path / "b", encoder=encoder, config=config)
    assert hash_file(tmp_path / "a" / "start" / "model.safetensors") == hash_file(
        tmp_path / "b" / "start" / "model.safetensors"
    )


def test_a_run_whose_start_is_gone_says_so_and_asks_nobody_for_it(tmp_path):
    train(pairs(60), out=tmp_path / "run", encoder=static(), config=replace(SMALL, epochs=1))
    shutil.rmtree(tmp_path / "run" / "start")
    with pytest.raises(Damaged, match="is gone"):
        train(pairs(60), out=tmp_path / "run", encoder=static(), config=replace(SMALL, epochs=1), resume=True)

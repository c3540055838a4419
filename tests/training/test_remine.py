"""Hard negatives found anew while training: which they are, when they are used, and that a kill changes no bit."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nearfar.data.pairs import write_pairs
from nearfar.data.text import normalize
from nearfar.embedding import embed
from nearfar.encoders import load_encoder
from nearfar.errors import BadConfig
from nearfar.files import hash_file
from nearfar.mining import NegativeRule, mine
from nearfar.training import parse_settings, train
from nearfar.training.checkpoint import latest_checkpoint
from nearfar.training.record import read_events

from tiny import StoppedError, stop_at, tiny_pairs, tiny_transformer

SETTINGS = [
    "batch_size=16",
    "epochs=2",
    "learning_rate=0.001",
    "evaluation.dev=0",
    "evaluation.judge=0",
    "checkpoint.every=1",
    "checkpoint.keep=99",
    "mining.every=3",
    "mining.count=2",
    "mining.below_positive=none",
]


def run(folder, out, *more, pairs=None, **options):
    config = parse_settings([*SETTINGS, *more])
    return train(pairs or tiny_pairs(64), out=folder / out, encoder=folder / "bert", config=config, **options)


@pytest.fixture
def place(tmp_path):
    tiny_transformer(tmp_path / "bert")
    return tmp_path


def test_a_mining_finds_what_the_model_of_its_step_finds_and_the_next_step_uses_it(place):
    pairs = tiny_pairs(64)
    run(place, "run", pairs=pairs)
    lines = [json.loads(line) for line in (place / "run" / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mined" in line] == [3, 6]
    assert all(line["mined"] == 128 and line["mined_pairs"] == 64 for line in lines if "mined" in line)
    events = [e for e in read_events(place / "run") if e["event"] == "remined"]
    assert [(e["step"], e["asked"], e["mined"]) for e in events] == [(3, 128, 128), (6, 128, 128)]
    # the model of step 3, put together from the checkpoint, mined with by the command's own function
    for step in range(8, 3, -1):
        import shutil

        shutil.rmtree(place / "run" / "checkpoints" / f"step-{step:08d}")
    kept = latest_checkpoint(place / "run" / "checkpoints").checkpoint
    assert kept is not None
    model = load_encoder(place / "run" / "start")
    for name, parameter in model.named_parameters():
        parameter.data.copy_(kept.tensors[f"weights/{name}"])
    found = mine(pairs, encoder=model, rule=NegativeRule(count=2, depth=50, below_positive=None), precision="float32").pairs
    documents = list(dict.fromkeys(p.positive for p in pairs))
    ids = kept.tensors["mined/ids"].reshape(64, 2).tolist()
    rows = embed(model, documents, precision="float32")
    queries = embed(model, [p.query for p in pairs], role="query", precision="float32")
    for pair, own, query in zip(found, ids, queries, strict=True):
        chosen = [documents[i] for i in own]
        assert normalize(pair.positive) not in map(normalize, chosen)
        # bfloat16 may turn near ties: as near as what was mined, to its rounding
        assert rows[own] @ query == pytest.approx([m.score for m in pair.mined], abs=0.02)
    without = run(place, "without", "mining.every=none")
    plain = [json.loads(line)["loss"] for line in (without.run / "steps.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert losses[:3] == plain[:3]
    assert all(a > b for a, b in zip(losses[3:], plain[3:], strict=True))


@pytest.mark.parametrize("moment", [2, 3, 4, 7])
def test_a_run_stopped_before_or_after_a_mining_ends_with_the_bytes_of_one_left_alone(place, moment):
    whole = ("checkpoint.every=3", "checkpoint.keep=2")
    run(place, "alone", *whole)
    with pytest.raises(StoppedError):
        run(place, "cut", *whole, progress=stop_at(moment))
    run(place, "cut", *whole, resume=True)
    for file in ("model/model.safetensors", "steps.jsonl"):
        assert hash_file(place / "alone" / file) == hash_file(place / "cut" / file)


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_a_run_killed_amid_its_minings_ends_with_the_bytes_of_one_left_alone(place):
    write_pairs(place / "pairs.csv", tiny_pairs(64))
    settings = [x for s in [*SETTINGS, "epochs=12"] for x in ("--set", s)]
    command = [sys.executable, "-m", "nearfar", "train", "pairs.csv", "--encoder", "bert", "--json", *settings]
    subprocess.run([*command, "-o", "alone"], cwd=place, check=True, capture_output=True)
    for wanted in (4, 10, 20):
        process = subprocess.Popen(
            [*command, "-o", "cut", "--resume"], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        log, deadline = place / "cut" / "steps.jsonl", time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") >= wanted:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "-o", "cut", "--resume"], cwd=place, check=True, capture_output=True)
    for file in ("model/model.safetensors", "steps.jsonl"):
        assert hash_file(place / "alone" / file) == hash_file(place / "cut" / file)


def test_a_pair_for_which_nothing_passes_keeps_what_it_was_given(place):
    pairs = [p.with_negatives(["cat dog"]) for p in tiny_pairs(64)]
    run(place, "run", "mining.below_positive=0.0", "mining.every=4", pairs=pairs)
    kept = latest_checkpoint(place / "run" / "checkpoints").checkpoint
    assert kept is not None
    ids, offsets = kept.tensors["mined/ids"].numpy(), kept.tensors["mined/offsets"].numpy()
    assert (np.diff(offsets) >= 1).all()
    assert ids.max() == 64  # the given negative comes after the 64 positives


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["mining.every=0"], "mining.every=0: expected 1 or more"),
        (["mining.count=0"], "mining.count=0: expected 1 or more"),
        (["mining.below_positive=2"], r"mining.below_positive=2.0: expected a share"),
        (["mining.every=8"], r"mining.every=8: the run has 8 steps .*before anything is mined.*--remine 2.*epochs=4"),
        (["mining.every=9", "batch_size=64", "epochs=1"], r"1 step \(64 pairs.*before anything is mined. Train longer"),
        (["loss.name=margin_mse"], "margin_mse learns a teacher's scores"),
    ],
)
def test_a_mining_that_cannot_be_is_refused_before_anything_is_written(place, settings, said):
    with pytest.raises(BadConfig, match=said):
        run(place, "run", *settings)
    assert not (place / "run").exists()

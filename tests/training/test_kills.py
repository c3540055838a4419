"""Twenty real kills at random moments, saves among them, and damage between: the run ends with the bytes of one left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from pictures import pictures

from nearfar.data.pairs import write_pairs
from nearfar.encoders import StaticEncoder
from nearfar.files import check_seal
from nearfar.training.record import read_events
from nearfar.types import Picture

from tiny import tiny_pairs, tiny_tokenizer, tiny_transformer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

KILLS = 20
SETTINGS = {
    "static": ["batch_size=8", "epochs=36", "learning_rate=0.05", "checkpoint.every=2", "evaluation.every=30"],
    "transformer": ["batch_size=8", "epochs=24", "learning_rate=0.0005", "checkpoint.every=2", "evaluation.every=30"],
    "pictures": [
        *("batch_size=8", "epochs=24", "learning_rate=0.005", "checkpoint.every=2", "evaluation.every=30"),
        *("loss.name=clip", "learn_temperature=true", "augment.kind=simclr", "compute.micro_tokens=64"),
    ],
}
ENCODERS = {"static": "static", "transformer": "transformer", "pictures": "clip:small-image:16+static"}
WAYS = ("flip a bit", "truncate", "delete a file", "delete all files", "truncate all checkpoints")


def command(kind, out, *more):
    settings = [*SETTINGS[kind], "evaluation.dev=20", "evaluation.judge=30", "checkpoint.keep=3"]
    given = [x for setting in settings for x in ("--set", setting)]
    return [
        sys.executable,
        "-m",
        "nearfar",
        "train",
        "pairs.csv",
        "-o",
        out,
        "--encoder",
        ENCODERS[kind],
        "--json",
        *given,
        *more,
    ]


def newest(run):
    return sorted((run / "checkpoints").glob("step-*"))


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_once(process, run, moment, rng):
    """SIGKILL at the moment; whether a half-written checkpoint was left."""
    log, before = run / "steps.jsonl", lines(run / "steps.jsonl")
    wanted, deadline = rng.randrange(1, 9), time.monotonic() + 120
    if moment == "start":
        time.sleep(rng.uniform(0.0, 4.0))
    while moment != "start" and process.poll() is None and time.monotonic() < deadline:
        # the log is cut on resume and grows from there, so that any change says that steps are taken
        if moment == "step" and abs(lines(log) - before) >= wanted:
            time.sleep(rng.uniform(0.0, 0.02))
            break
        if moment == "save" and any((run / "checkpoints").glob(".step-*.tmp")):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return any((run / "checkpoints").glob(".step-*.tmp"))


def damage(run, way, rng):
    """Spoil the newest checkpoint (or all); how many were spoiled."""
    chosen = newest(run) if way == WAYS[-1] else newest(run)[-1:]
    for folder in chosen:
        files = sorted(folder.iterdir())
        file = rng.choice(files)
        content = bytearray(file.read_bytes())
        if way == "flip a bit":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
        elif way.startswith("truncate"):
            file.write_bytes(content[: rng.randrange(len(content))])
        else:
            for gone in [file] if way == "delete a file" else files:
                gone.unlink()
    return len(chosen)


def with_pictures(folder, pairs):
    """The pairs with a picture for each positive, as files beside them."""
    found = []
    for pair, picture in zip(pairs, pictures(len(pairs)), strict=True):
        path = folder / "shown" / picture.rsplit("/", 1)[-1]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture.read())
        found.append(replace(pair, positive=Picture(path), negatives=()))
    return found


def everything(run):
    """What must be the same, bit for bit: model, start, checkpoints, log and scores."""
    found = {}
    for name in ("model", "start", "checkpoints"):
        found |= {p.relative_to(run).as_posix(): p.read_bytes() for p in (run / name).rglob("*") if p.is_file()}
    return found | {name: (run / name).read_bytes() for name in ("steps.jsonl", "metrics.json")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "seed"), [("static", 1), ("transformer", 2), ("pictures", 3)])
def test_twenty_kills_and_twenty_resumes_end_with_the_bytes_of_a_run_left_alone(tmp_path, kind, seed):
    rng = random.Random(seed)
    write_pairs(tmp_path / "pairs.csv", with_pictures(tmp_path, tiny_pairs()) if kind == "pictures" else tiny_pairs())
    if kind != "transformer":
        table = torch.randn(tiny_tokenizer().get_vocab_size(), 64, generator=torch.Generator().manual_seed(0))
        StaticEncoder(table, tiny_tokenizer()).save(tmp_path / "static")
    else:
        tiny_transformer(tmp_path / "transformer")
    # of the same name, in a folder of its own: a model's card says what its run is called
    other = shutil.copytree(tmp_path, tmp_path / "other")
    done = subprocess.run(command(kind, "run"), cwd=other, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    run, spoiled, torn = tmp_path / "run", 0, 0
    moments = ["start", *rng.sample(["start"] * 2 + ["step"] * 9 + ["save"] * 8, KILLS - 1)]
    for number, moment in enumerate(moments):
        process = subprocess.Popen(command(kind, "run", "--resume"), cwd=tmp_path, stdout=-3, stderr=-3)
        torn += kill_once(process, run, moment, rng)
        if number % 4 == 3 and newest(run):
            spoiled += damage(run, WAYS[number // 4 % len(WAYS)], rng)
    last = subprocess.run(command(kind, "run", "--resume"), cwd=tmp_path, capture_output=True, text=True)
    assert last.returncode == done.returncode, last.stderr
    assert torn >= 1
    assert spoiled >= 4
    events = read_events(run)
    assert 4 <= sum(event["event"] == "damaged" for event in events) <= spoiled
    mine, theirs = everything(run), everything(other / "run")
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    steps = [json.loads(line)["step"] for line in (run / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    for folder in newest(run):
        check_seal(folder)
    assert [p for p in run.rglob("*") if p.name.endswith((".tmp", ".old"))] == []

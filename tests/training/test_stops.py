"""Signals: the first finishes the step and saves, the second stops at once, and the exit code says which signal it was."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from nearfar.data.pairs import write_pairs
from nearfar.encoders import StaticEncoder
from nearfar.errors import Interrupted
from nearfar.training import parse_settings, train
from nearfar.training.checkpoint import latest_checkpoint
from nearfar.training.record import read_events
from nearfar.training.stop import SIGNALS, stop_requests

from tiny import tiny_pairs, tiny_tokenizer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

SETTINGS = ["batch_size=8", "epochs=400", "learning_rate=0.05", "evaluation.dev=20", "evaluation.judge=30"]
COMMAND = ["train", "pairs.csv", "-o", "run", "--encoder", "model", "--json", *(x for s in SETTINGS for x in ("--set", s))]


def static():
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(table, tiny_tokenizer())


@pytest.fixture
def place(tmp_path):
    static().save(tmp_path / "model")
    write_pairs(tmp_path / "pairs.csv", tiny_pairs())
    return tmp_path


def start(place, *arguments):
    command = [sys.executable, "-m", "nearfar", *arguments]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(holds, process):
    deadline = time.monotonic() + 120
    while not holds() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert holds(), process.communicate()[1]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_it_and_says_how_to_go_on(place, number, code):
    process = start(place, *COMMAND)
    wait_until(lambda: lines(place / "run" / "steps.jsonl") >= 5, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    step = lines(place / "run" / "steps.jsonl")
    assert f"stopped by {number.name} after step {step:,} of" in err
    assert f"step-{step:08d}. Go on with the same command and --resume." in err
    assert json.loads(out.splitlines()[-1])["error"]["kind"] == "Interrupted"
    found = latest_checkpoint(place / "run" / "checkpoints")
    assert found.checkpoint is not None
    assert found.checkpoint.step == step
    assert found.log == (place / "run" / "steps.jsonl").read_bytes()
    [event] = read_events(place / "run")
    assert (event["event"], event["signal"], event["kept"]) == ("interrupted", int(number), step)


def test_sigterm_before_the_first_step_ends_with_143_and_a_sentence(place):
    process = start(place, *COMMAND, "--set", "epochs=100000")
    wait_until(lambda: (place / "run" / "start").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert re.search(r"stopped by SIGTERM", err)


SLOW = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from nearfar.cli import main
import nearfar.training.loop as loop, test_stops as t
from nearfar.errors import Interrupted
from nearfar.training import parse_settings
def slow(stage, done, total, **facts):
    print(stage, done, facts.get("note", ""), flush=True)
    if stage == "train" and done == 8 and "note" not in facts:
        time.sleep(300)
config = parse_settings(["checkpoint.every=3", *t.SETTINGS])
try:
    loop.train(t.tiny_pairs(), out=Path(sys.argv[3]), encoder=t.static(), config=config, progress=slow)
except Interrupted as stop:
    print(stop, flush=True)
    sys.exit(stop.exit_code)
"""


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_is_kept(tmp_path):
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", SLOW, here, os.path.dirname(here), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for wanted, number in (("train 8", signal.SIGINT), ("train 8 SIGINT: finishing", signal.SIGTERM)):
        while not process.stdout.readline().startswith(wanted):
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(number)
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 143
    assert "stopped at once by SIGTERM. All up to step 6 is kept" in told
    assert "2 steps after it are lost" in told
    found = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found.checkpoint is not None
    assert found.checkpoint.step == 6


def test_in_a_thread_of_its_own_nothing_is_installed(tmp_path):
    seen = set()

    def look(stage, done, total, **facts):
        seen.update(signal.getsignal(number) for number in SIGNALS)

    before = {signal.getsignal(number) for number in SIGNALS}
    config = parse_settings(["batch_size=16", "epochs=1", "evaluation.dev=0", "evaluation.judge=0"])
    arguments = {"out": tmp_path / "run", "encoder": static(), "config": config, "progress": look}
    thread = threading.Thread(target=train, args=(tiny_pairs(60),), kwargs=arguments)
    thread.start()
    thread.join()
    assert seen == before
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_signal_that_was_ignored_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stop_requests() as caught:
            os.kill(os.getpid(), signal.SIGTERM)
            assert caught == []
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_second_signal_raises_and_handlers_are_put_back():
    before, heard = signal.getsignal(signal.SIGINT), []
    with stop_requests(heard.append) as caught:
        signal.raise_signal(signal.SIGINT)
        assert caught == heard == [signal.SIGINT]
        with pytest.raises(Interrupted) as error:
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
    assert error.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before

"""The questions of `--review`: answers are kept one by one, survive a kill, and give an unbiased rate."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from nearfar.auditing import material_of
from nearfar.auditing.review import Candidate, Sample, keep_answer, rate, read_answers, review, sample_candidates
from nearfar.encoders import StaticEncoder
from nearfar.errors import BadInput, Damaged

import faults
from tiny import tiny_pairs, tiny_tokenizer


def encoder():
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(table, tiny_tokenizer())


def sample(count=30):
    return sample_candidates(material_of(tiny_pairs(120), encoder=encoder(), model_name="tiny"), count)


def test_no_candidate_is_a_known_positive_or_the_query_itself_and_none_comes_twice():
    pairs = tiny_pairs(120)
    known = {(p.query, p.positive) for p in pairs}
    asked = sample().candidates
    assert len(asked) == 30
    assert len({c.key() for c in asked}) == 30
    assert not any((c.query, c.document) in known or c.query == c.document for c in asked)
    assert sample().candidates == asked


def test_answers_are_kept_one_by_one_and_the_rest_is_asked_the_next_time(tmp_path):
    path, heard = tmp_path / "answers.jsonl", []

    def ask(candidate, number, total):
        heard.append(candidate)
        return "yes" if len(heard) != 6 else None

    assert len(review(sample(), path, ask)) == 5
    assert len(read_answers(path)) == 5
    again = review(sample(), path, lambda *_: "no")
    assert len(again) == 30
    assert sum(answer == "yes" for answer in again.values()) == 5


def test_a_torn_last_line_is_no_answer_and_a_strange_line_is_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    one, two = sample().candidates[:2]
    keep_answer(path, one, "yes")
    with open(path, "ab") as handle:
        handle.write(b'{"answer": "no", "query": "\xc3')
    assert list(read_answers(path).values()) == ["yes"]
    keep_answer(path, two, "no")
    assert list(read_answers(path).values()) == ["yes", "no"]
    path.write_text('{"answer": "maybe", "query": "a", "document": "b"}\n')
    with pytest.raises(Damaged, match=r"answers\.jsonl:1"):
        read_answers(path)


def test_every_answer_survives_a_kill(tmp_path):
    pairs = tiny_pairs(60)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"query": p.query, "positive": p.positive}) + "\n" for p in pairs))
    encoder().save(tmp_path / "m")
    command = [sys.executable, "-m", "nearfar", "audit", "p.jsonl", "--model", "m", "--review", "--count", "12"]
    job = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert job.stdin is not None
    job.stdin.write(b"y\nn\ns\n")
    job.stdin.flush()
    path = tmp_path / "p.jsonl.review.jsonl"
    for _ in range(1200):
        if path.exists() and path.read_bytes().count(b"\n") == 3:
            break
        time.sleep(0.1)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert list(read_answers(path).values()) == ["yes", "no", "skip"]
    done = subprocess.run([*command, "--json"], cwd=tmp_path, input=b"y\n" * 20, capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert told["left"] == 0
    assert told["finding"]["total"] == 11
    assert b"[4/12]" in done.stderr
    assert b"[3/12]" not in done.stderr


def test_the_rate_is_right_on_average_and_its_interval_covers():
    rng = np.random.default_rng(0)
    sizes, truth = (50, 100, 200, 400, 1_000), np.array([0.8, 0.4, 0.2, 0.05, 0.01])
    whole = float(np.average(truth, weights=sizes))
    estimates, covered = [], 0
    for _ in range(300):
        candidates = tuple(Candidate("w", f"q{b} {i}", "p", "d", b) for b in range(5) for i in range(20))
        answers = {c.key(): "yes" if rng.random() < truth[c.band] else "no" for c in candidates}
        found = rate(Sample(candidates, sizes), answers, where="p", model="m")
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        estimates.append(found.share)
        covered += found.low <= whole <= found.high
    assert np.mean(estimates) == pytest.approx(whole, abs=0.005)
    assert covered >= 0.93 * 300


def test_without_answers_there_is_no_rate_and_without_a_model_no_question():
    assert rate(sample(), {}, where="p", model="m") is None
    assert rate(sample(), {c.key(): "skip" for c in sample().candidates}, where="p", model="m") is None
    with pytest.raises(BadInput, match="--model static"):
        sample_candidates(material_of(faults.clean_pairs(20)), 5)

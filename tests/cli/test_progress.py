"""Progress: what is left is told by what this process did, the loss is smoothed, and the dev score stands with the best of them."""

import io

import pytest

from nearfar.cli.progress import duration, shown


@pytest.fixture
def said(monkeypatch):
    """Draw on what is no terminal, with a clock that is set by hand: (progress, clock, lines said)."""
    clock = [0.0]
    monkeypatch.setattr("nearfar.cli.progress.perf_counter", lambda: clock[0])
    out = io.StringIO()
    with shown(stream=out) as progress:
        yield progress, clock, lambda: out.getvalue().splitlines()


def test_what_is_left_of_a_resumed_run_is_told_by_the_steps_of_this_process(said):
    progress, clock, lines = said
    progress("train", 901, 1000, loss=2.0, rate="7 pairs/s")
    clock[0] = 10.0
    progress("train", 911, 1000, loss=2.0, rate="7 pairs/s")
    assert lines() == ["train 911/1,000, loss 2, 7 pairs/s, 1 min 29 s left"]


def test_the_loss_is_smoothed_and_the_dev_score_stands_beside_it_with_the_best(said):
    progress, clock, lines = said
    progress("dev", 0, 10, score=0.5)
    for step, loss in ((1, 2.0), (2, 1.0)):
        clock[0] += 6.0
        progress("train", step, 10, loss=loss, rate="7 pairs/s")
        progress("dev", step, 10, score=0.25)
    assert lines() == [
        "train 1/10, loss 2, 7 pairs/s, dev 0.5, 54 s left",
        "train 2/10, loss 1.9, 7 pairs/s, dev 0.25 (best 0.5), 48 s left",
    ]


def test_a_stage_that_comes_again_is_timed_anew(said):
    progress, clock, lines = said
    for _ in range(2):
        progress("encode", 0, 4)
        clock[0] += 8.0
        progress("encode", 4, 4)
    assert lines() == ["encode 4/4, 8 s"] * 2


@pytest.mark.parametrize("has_dev", [False, True])
def test_the_next_of_several_runs_is_timed_from_its_own_beginning(said, has_dev):
    progress, clock, lines = said
    for _ in range(2):
        if has_dev:
            progress("dev", 0, 10, score=0.5)
        for step in (1, 5, 10):
            progress("train", step, 10, loss=1.0)
            if has_dev:
                progress("dev", step, 10, score=0.5)
            clock[0] += 6.0
    dev = ", dev 0.5" if has_dev else ""
    assert [line.rsplit(", ", 1)[1] for line in lines() if "10/10" in line] == ["12 s", "12 s"]
    assert all(dev in line for line in lines())


@pytest.mark.parametrize(("seconds", "words"), [(8.6, "9 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")])
def test_a_time_is_told_as_people_say_it(seconds, words):
    assert duration(seconds) == words

"""Checkpoints: every byte is sealed, what is damaged is named and passed over, and the run ends as if nothing had happened."""

import os
import random
import shutil
from dataclasses import replace

import pytest
import torch

from nearfar.encoders import StaticEncoder
from nearfar.errors import BadInput, Damaged
from nearfar.files import SEAL, sole_writer
from nearfar.training import parse_settings, train
from nearfar.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from nearfar.training.record import StepLog, note_event, read_events, restore_log
from nearfar.types import Checkpoint

from tiny import tiny_pairs, tiny_tokenizer

SETTINGS = ["batch_size=16", "epochs=3", "learning_rate=0.05", "evaluation.dev=20", "evaluation.judge=30", "checkpoint.every=3"]
CONFIG = parse_settings([*SETTINGS, "evaluation.every=4", "checkpoint.keep=3"])
SAME = ("steps.jsonl", "metrics.json", "model/model.safetensors", "start/model.safetensors")


def static():
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(table, tiny_tokenizer())


def run_it(out, config=CONFIG, stop_at=None, notes=None):
    """The same run whenever it is called; `stop_at` breaks it off in the middle of that step, as a kill would."""

    def look(stage, done, total, **facts):
        if notes is not None and "note" in facts:
            notes.append(facts["note"])
        if stop_at and stage == "train" and done == stop_at:
            raise ZeroDivisionError

    return train(tiny_pairs(), out=out, encoder=static(), config=config, resume=(out / "run.json").exists(), progress=look)


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A run broken off at step 11 (checkpoints 3, 6, 9), and the same one left alone."""
    place = tmp_path_factory.mktemp("runs")
    run_it(place / "alone")
    with pytest.raises(ZeroDivisionError):
        run_it(place / "broken", stop_at=11)
    assert [p.name for p in sorted((place / "broken" / "checkpoints").iterdir())] == [f"step-{n:08d}" for n in (3, 6, 9)]
    return place


def checkpoint(step=4):
    return Checkpoint(step, {"a": torch.arange(6.0), "b": torch.ones(2, 3)}, {"best": 1.5, "names": ["x"]})


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_any_flipped_bit_of_any_file_is_found_and_its_file_named(tmp_path):
    made = save_checkpoint(tmp_path, checkpoint(), b'{"step": 1}\n')
    for name, content in everything(made).items():
        for place in range(0, len(content), max(1, len(content) // 40)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << (place % 8)
            (made / name).write_bytes(flipped)
            with pytest.raises(Damaged, match="step-00000004"):
                load_checkpoint(made)
        (made / name).write_bytes(content)
    assert torch.equal(load_checkpoint(made).tensors["a"], checkpoint().tensors["a"])
    (made / "state.json").write_text("{}")
    with pytest.raises(Damaged, match=r"state\.json is not what was written"):
        load_checkpoint(made)


def test_a_seal_is_what_sha256sum_writes(tmp_path):
    made = save_checkpoint(tmp_path, checkpoint())
    lines = (made / SEAL).read_text().splitlines()
    assert [line[64:66] for line in lines] == ["  "] * 3
    assert [line[66:] for line in lines] == ["state.json", "state.safetensors", "steps.jsonl"]


def damage(folder, how, rng):
    """One way in which a checkpoint is lost."""
    files = sorted(p for p in folder.iterdir() if p.stat().st_size)
    file = rng.choice(files)
    content = file.read_bytes()
    if how == "flipped":
        place = rng.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
    elif how == "truncated":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif how == "longer":
        file.write_bytes(content + b"\0")
    elif how == "half-deleted":
        file.unlink()
    elif how == "empty":
        for file in files:
            file.unlink()
    elif how == "of zeros":
        file.write_bytes(bytes(len(content)))
    elif how == "renamed":
        os.replace(folder, folder.with_name("step-00000010"))


WAYS = ("flipped", "truncated", "longer", "half-deleted", "empty", "of zeros")


@pytest.mark.parametrize("how", [*WAYS, "renamed"])
def test_a_damaged_checkpoint_is_named_the_one_before_is_used_and_the_end_is_the_same(broken_off, tmp_path, how):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "step-00000009", how, random.Random(how))
    notes = []
    run_it(tmp_path / "run", notes=notes)
    assert any(note.startswith("damaged, not used") and "step-000000" in note for note in notes)
    assert "going on after step 6 of 21" in notes
    told = read_events(tmp_path / "run")
    assert [e["event"] for e in told] == ["damaged", "resumed", "finished"]
    assert told[1]["checkpoint"] == "step-00000006"
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (broken_off / "alone" / name).read_bytes()
    assert everything(tmp_path / "run" / "checkpoints") == everything(broken_off / "alone" / "checkpoints")


def test_where_all_checkpoints_are_damaged_the_run_starts_over_and_says_so(broken_off, tmp_path):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    for number, folder in enumerate(sorted((tmp_path / "run" / "checkpoints").iterdir())):
        damage(folder, WAYS[number], random.Random(number))
    notes = []
    run_it(tmp_path / "run", notes=notes)
    assert sum(note.startswith("damaged") for note in notes) == 3
    assert any("no checkpoint is whole: starting over from" in note for note in notes)
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (broken_off / "alone" / name).read_bytes()
    assert everything(tmp_path / "run" / "checkpoints") == everything(broken_off / "alone" / "checkpoints")


def test_a_run_without_any_checkpoint_starts_over(broken_off, tmp_path):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run_it(tmp_path / "run")
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (broken_off / "alone" / name).read_bytes()


def test_a_damaged_start_is_refused_since_nothing_exact_can_come_of_it(broken_off, tmp_path):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    file = tmp_path / "run" / "start" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match="not the encoder the run began with"):
        run_it(tmp_path / "run")


@pytest.mark.parametrize("fate", ["gone", "cut", "torn", "doubled", "of zeros", "empty"])
def test_whatever_became_of_the_log_it_ends_without_a_gap_or_a_double_line(broken_off, tmp_path, fate):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    log = tmp_path / "run" / "steps.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 11
    log.write_bytes(
        {
            "gone": b"",
            "cut": b"".join(lines[:4]),
            "torn": b"".join(lines)[:-9],
            "doubled": b"".join(lines + lines[5:]),
            "of zeros": b"".join(lines[:9]) + bytes(400),
            "empty": b"",
        }[fate]
    )
    if fate == "gone":
        log.unlink()
    run_it(tmp_path / "run")
    assert log.read_bytes() == (broken_off / "alone" / "steps.jsonl").read_bytes()


def test_the_newest_whole_checkpoint_is_found_behind_a_damaged_one(tmp_path):
    for step in (3, 6):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    damage(tmp_path / "step-00000006", "truncated", random.Random(0))
    found = latest_checkpoint(tmp_path)
    assert found.folder == tmp_path / "step-00000003"
    assert list(found.skipped) == [tmp_path / "step-00000006"]


def test_with_one_checkpoint_kept_a_resume_at_other_steps_keeps_a_whole_one_at_every_moment(broken_off, tmp_path):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "step-00000009", "flipped", random.Random(1))
    often = replace(CONFIG, checkpoint=replace(CONFIG.checkpoint, every=1, keep=1))
    with pytest.raises(ZeroDivisionError):
        run_it(tmp_path / "run", often, stop_at=8)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000007"]
    run_it(tmp_path / "run", often)
    assert (tmp_path / "run" / "steps.jsonl").read_bytes() == (broken_off / "alone" / "steps.jsonl").read_bytes()


def test_a_second_process_is_kept_out_of_a_run_that_is_being_written(broken_off, tmp_path):
    shutil.copytree(broken_off / "broken", tmp_path / "run")
    before = (tmp_path / "run" / "steps.jsonl").read_bytes()
    with sole_writer(tmp_path / "run"), pytest.raises(BadInput, match=f"process {os.getpid()} is writing here"):
        run_it(tmp_path / "run")
    assert (tmp_path / "run" / "steps.jsonl").read_bytes() == before
    run_it(tmp_path / "run")


def test_an_event_after_a_torn_line_stands_on_its_own_line(tmp_path):
    note_event(tmp_path, "resumed", step=1)
    with open(tmp_path / "events.jsonl", "a") as handle:
        handle.write('{"at": "20')
    note_event(tmp_path, "finished", step=2)
    assert [(e["event"], e["step"]) for e in read_events(tmp_path)] == [("resumed", 1), ("finished", 2)]


def test_a_line_of_the_log_is_there_as_soon_as_it_is_written(tmp_path):
    with StepLog(tmp_path / "steps.jsonl") as log:
        log.write({"step": 1})
        assert (tmp_path / "steps.jsonl").read_bytes() == b'{"step": 1}\n'
        log.write({"step": 2})
        assert log.content() == b'{"step": 1}\n{"step": 2}\n'
    restore_log(tmp_path / "steps.jsonl", b'{"step": 1}\n')
    with StepLog(tmp_path / "steps.jsonl") as log:
        log.write({"step": 2})
    assert (tmp_path / "steps.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'

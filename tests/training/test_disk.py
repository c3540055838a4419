"""A disk that refuses: what was kept stays whole, what was half written goes, and the message names the place and the free space."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest
import torch

from nearfar.data.pairs import write_pairs
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.errors import BadInput, CannotWrite
from nearfar.files import atomic_file, check_seal, write_json
from nearfar.training.checkpoint import save_checkpoint
from nearfar.training.record import StepLog, note_event
from nearfar.types import Checkpoint

from tiny import tiny_pairs, tiny_tokenizer, tiny_transformer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts and limits as on Linux")

SETTINGS = [
    "batch_size=8",
    "epochs=12",
    "evaluation.dev=20",
    "evaluation.judge=30",
    "checkpoint.every=2",
    "evaluation.every=1000",
]


def static(dim=64):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(table, tiny_tokenizer())


@pytest.fixture
def disk(tmp_path):
    """A file system of 6 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk, leave):
    """Take all the space but about `leave` bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    # whoever else writes there meanwhile may be faster: then it is full all the same
    with suppress(OSError), open(disk / "filler", "wb") as handle:
        handle.write(bytes(max(0, free - leave)))


@contextmanager
def limit(size):
    """No file longer than `size` bytes, as `ulimit -f` says it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def nobody(folder):
    """As a user who may read `folder` and not write there."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    before = folder.stat().st_mode if os.geteuid() != 65534 else None
    try:
        if before is not None:
            folder.chmod(0o500)
        yield
    finally:
        if before is not None:
            folder.chmod(before)
        else:
            os.seteuid(0)


def checkpoint(step):
    return Checkpoint(step, {"a": torch.ones(40_000)}, {"x": 1})


def hidden(folder):
    return [p for p in folder.rglob("*") if ".tmp" in p.name]


def test_a_run_on_a_full_disk_says_so_keeps_its_checkpoints_and_goes_on_when_there_is_room(disk, tmp_path):
    static().save(tmp_path / "model")
    write_pairs(tmp_path / "pairs.csv", tiny_pairs())
    command = [sys.executable, "-m", "nearfar", "train", "pairs.csv", "--encoder", "model", "--json"]
    command += [x for setting in SETTINGS for x in ("--set", setting)]
    alone = subprocess.run([*command, "-o", "alone"], cwd=tmp_path, capture_output=True, text=True)
    assert alone.returncode in (0, 1), alone.stderr
    process = subprocess.Popen([*command, "-o", str(disk / "run")], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    run, deadline = disk / "run", time.monotonic() + 120
    while not list(run.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    fill(disk, 60_000)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert "cannot be written: the disk is full (" in err
    assert "free of 6.3 MB)" in err
    assert "is kept in" in err
    assert "--resume" in err
    assert hidden(disk) == []
    kept = sorted(run.glob("checkpoints/step-*"))
    assert kept
    for folder in kept:
        check_seal(folder)
    (disk / "filler").unlink()
    again = subprocess.run([*command, "-o", str(run), "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == alone.returncode, again.stderr
    for name in ("steps.jsonl", "metrics.json", "model/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_no_room_for_a_checkpoint_leaves_the_earlier_one_alone(disk):
    save_checkpoint(disk, checkpoint(1))
    fill(disk, 100_000)
    with pytest.raises(CannotWrite, match="step-00000002: cannot be written: the disk is full"):
        save_checkpoint(disk, checkpoint(2))
    check_seal(disk / "step-00000001")
    assert sorted(p.name for p in disk.iterdir()) == ["filler", "step-00000001"]


def test_no_room_for_a_model_leaves_the_one_that_was_there(disk, tmp_path):
    before = static()
    before.save(disk / "model")
    tiny_transformer(tmp_path / "bert")
    fill(disk, 50_000)
    for model in (static(128), load_encoder(tmp_path / "bert")):
        with pytest.raises(CannotWrite, match="the disk is full"):
            model.save(disk / "model")
    assert load_encoder(disk / "model").fingerprint() == before.fingerprint()
    assert sorted(p.name for p in disk.iterdir()) == ["filler", "model"]


def test_no_room_for_a_line_of_the_log_is_said(disk):
    with StepLog(disk / "steps.jsonl") as log:
        log.write({"step": 1})
        fill(disk, 0)
        with pytest.raises(CannotWrite, match=r"steps\.jsonl: cannot be written: the disk is full \(0 bytes free of 6\.3 MB\)"):
            # more than a page, of which the last one has room yet
            log.write({"step": 2, "text": "x" * 5000})
    with pytest.raises(CannotWrite, match=r"events\.jsonl"):
        note_event(disk, "resumed")


def test_a_read_only_file_system_is_named(disk):
    (disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for write in (
        lambda: save_checkpoint(disk / "run", checkpoint(1)),
        lambda: write_json(disk / "run" / "run.json", {}),
        lambda: static().save(disk / "run" / "model"),
        lambda: StepLog(disk / "run" / "steps.jsonl"),
    ):
        with pytest.raises(CannotWrite, match="the file system is read-only") as error:
            write()
        assert str(disk / "run") in str(error.value)


def test_a_folder_without_permission_is_named(tmp_path):
    place = tmp_path / "theirs"
    place.mkdir()
    for write in (
        lambda: save_checkpoint(place, checkpoint(1)),
        lambda: write_json(place / "run.json", {}),
        lambda: static().save(place / "model"),
        lambda: StepLog(place / "steps.jsonl"),
    ):
        with nobody(place), pytest.raises(CannotWrite, match=r"no permission \(.* free\)"):
            write()
    assert list(place.iterdir()) == []


def test_a_limit_on_the_size_of_files_is_named_and_nothing_half_written_stays(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    with limit(50_000), pytest.raises(CannotWrite, match="ulimit -f"):
        save_checkpoint(tmp_path, checkpoint(2))
    with limit(50_000), pytest.raises(CannotWrite, match="ulimit -f"), atomic_file(tmp_path / "big") as handle:
        handle.write(bytes(60_000))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    check_seal(tmp_path / "step-00000001")


def test_an_fsync_that_fails_is_a_refusal(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CannotWrite, match="the device failed"):
        write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_not_called_a_refusal_to_write(tmp_path):
    with pytest.raises(PermissionError), atomic_file(tmp_path / "out"):
        raise PermissionError(13, "Permission denied", "/somewhere/else.csv")
    with pytest.raises(BadInput), atomic_file(tmp_path / "out"):
        raise BadInput("theirs")
    assert list(tmp_path.iterdir()) == []

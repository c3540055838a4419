"""Writes are whole or not at all, whoever reads meanwhile and whoever was killed before."""

import os
import subprocess
import sys

import pytest

from nearfar.errors import BadInput, Damaged
from nearfar.files import (
    SEAL,
    atomic_file,
    atomic_folder,
    check_seal,
    clear_dead,
    hash_folder,
    read_json,
    seal_folder,
    sole_writer,
    write_json,
)


def write(folder, text):
    with atomic_folder(folder) as target:
        (target / "inner").mkdir()
        (target / "inner" / "a.txt").write_text(text)


def test_a_folder_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    write(tmp_path / "f", "one")
    write(tmp_path / "f", "two")
    assert (tmp_path / "f" / "inner" / "a.txt").read_text() == "two"
    assert os.listdir(tmp_path) == ["f"]


def test_an_error_while_writing_leaves_the_old_folder_and_file(tmp_path):
    write(tmp_path / "f", "one")
    (tmp_path / "g").write_text("one")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "f") as target:
        (target / "b").write_text(str(1 / 0))
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "g", "w") as handle:
        handle.write(str(1 / 0))
    assert (tmp_path / "f" / "inner" / "a.txt").read_text() == "one"
    assert (tmp_path / "g").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_what_a_killed_writer_left_is_cleared_by_the_next_one_and_the_living_are_left_alone(tmp_path):
    code = (
        "import os, signal, sys\nfrom nearfar.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1]) as t:\n    (t / 'x').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")]).returncode == -9
    assert len(os.listdir(tmp_path)) == 1
    living = tmp_path / f".f.{os.getppid()}.tmp"
    living.mkdir()
    write(tmp_path / "f", "whole")
    assert sorted(os.listdir(tmp_path)) == sorted([living.name, "f"])


def test_a_reader_that_settles_between_the_renames_does_not_stop_the_writer(tmp_path):
    write(tmp_path / "f", "0")
    code = (
        "import sys\nfrom pathlib import Path\nfrom nearfar.files import settle_folder\nprint('ready', flush=True)\n"
        "while Path(sys.argv[2]).exists():\n    settle_folder(sys.argv[1])\n"
    )
    flag = tmp_path / "go on"
    flag.touch()
    reader = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f"), str(flag)], stdout=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"ready\n"
    try:
        for number in range(60):
            write(tmp_path / "f", str(number))
    finally:
        flag.unlink()
        reader.communicate()
    assert reader.returncode == 0
    assert (tmp_path / "f" / "inner" / "a.txt").read_text() == "59"


def test_json_refuses_what_is_not_json_and_names_the_line(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "b.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(Damaged, match=r"b\.json:2"):
        read_json(tmp_path / "b.json")
    with pytest.raises(BadInput, match="no such file"):
        read_json(tmp_path / "c.json")


def test_the_hash_of_a_folder_knows_names_and_contents(tmp_path):
    for name, file, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    a, b, c, d = (hash_folder(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_a_seal_names_what_was_altered_added_or_taken_away(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_text(name)
    seal_folder(tmp_path)
    check_seal(tmp_path)
    (tmp_path / "c").write_text("new")
    (tmp_path / "a").unlink()
    (tmp_path / "inner" / "b").write_text("other")
    with pytest.raises(Damaged, match=r"a is missing, c was not there, inner/b is not what was written"):
        check_seal(tmp_path)
    (tmp_path / SEAL).unlink()
    with pytest.raises(Damaged, match="it has no SHA256SUMS"):
        check_seal(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="sha256sum as on POSIX")
def test_the_seal_is_checked_by_sha256sum_too(tmp_path):
    (tmp_path / "a b").write_text("x")
    seal_folder(tmp_path)
    assert subprocess.run(["sha256sum", "-c", "--strict", SEAL], cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="processes as on POSIX")
def test_what_the_dead_left_is_cleared_whatever_its_name(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".step-1.{gone.pid}.tmp").mkdir()
    (tmp_path / f".steps.jsonl.{gone.pid}.tmp").write_text("half")
    kept = [f".step-2.{os.getpid()}.tmp", ".mine.tmp", "notes.1.tmp"]
    for name in kept:
        (tmp_path / name).write_text("alive")
    clear_dead(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


@pytest.mark.skipif(os.name != "posix", reason="locks as on POSIX")
def test_a_killed_writer_holds_nothing_any_more(tmp_path):
    code = (
        "import sys, time\nfrom nearfar.files import sole_writer\n"
        "with sole_writer(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(300)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BadInput, match=f"process {process.pid} is writing here"), sole_writer(tmp_path):
        pass
    process.kill()
    process.wait()
    with sole_writer(tmp_path):
        pass

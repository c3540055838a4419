"""Writes are whole or not at all, whoever reads meanwhile and whoever was killed before."""

import os
import subprocess
import sys

import pytest

from nearfar.errors import BadInput, Damaged
from nearfar.files import atomic_file, atomic_folder, hash_folder, read_json, write_json


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

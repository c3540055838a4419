"""Laws of a folder of pictures: all of it is found, in one order, and what is broken is named and left out."""

from __future__ import annotations

import os

import pytest

from nearfar.data.picture_folder import list_pictures, look_at
from nearfar.errors import BadInput
from nearfar.types import Picture

pytest.importorskip("PIL")

from pictured import png


@pytest.fixture
def folder(tmp_path):
    for name in ("b.PNG", "deep/er/a.png", "deep/c.png", "notes.txt", ".hidden.png", ".cache/d.png"):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png("red"))
    return tmp_path


def test_every_picture_below_the_folder_is_found_once_in_order_of_its_path(folder):
    found = list_pictures(folder)
    assert list(found) == ["b.PNG", "deep/c.png", "deep/er/a.png"]
    assert all(isinstance(p, Picture) and p == key and p.read() == png("red") for key, p in found.items())


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no picture in it"):
        list_pictures(tmp_path)
    with pytest.raises(BadInput, match="no such folder"):
        list_pictures(tmp_path / "gone")


def test_what_is_broken_is_named_with_its_reason_and_left_out(folder):
    (folder / "torn.png").write_bytes(png("blue", size=64)[:60])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"not a picture")
    pictures = list_pictures(folder)
    found = look_at(pictures, 8)
    assert list(found.pictures) == ["b.PNG", "deep/c.png", "deep/er/a.png"]
    assert [broken.picture for broken in found.broken] == ["empty.jpg", "text.png", "torn.png"]
    assert all(broken.picture in broken.why for broken in found.broken)
    assert look_at(pictures, 8, only=["b.PNG"]).broken == []


def test_the_progress_of_looking_ends_at_the_last_picture(folder):
    seen = []
    look_at(list_pictures(folder), 8, progress=lambda stage, done, total, **facts: seen.append((stage, done, total)))
    assert seen[-1] == ("decode pictures", 3, 3)


def test_a_named_pipe_is_passed_over_and_a_dangling_link_is_named(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    pictures = list_pictures(folder)
    assert list(pictures) == ["b.PNG", "deep/c.png", "deep/er/a.png", "link.png"]
    assert [broken.picture for broken in look_at(pictures, 8).broken] == ["link.png"]


def test_a_file_name_that_is_no_unicode_is_named_and_the_others_are_kept(folder):
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(png("blue"))
    pictures = list_pictures(folder)
    found = look_at(pictures, 8)
    assert list(found.pictures) == ["b.PNG", "deep/c.png", "deep/er/a.png"]
    (broken,) = found.broken
    assert broken.picture == "caf\ufffd.png"
    assert "not UTF-8. Give it another name" in broken.why
    "".join([broken.picture, broken.why]).encode()  # can be printed
    assert list(look_at(pictures, 8, only=list(pictures)).pictures) == list(found.pictures)

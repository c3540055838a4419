"""What a shard cannot say is said: two members of one name, a text that is none. The other samples stay."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from nearfar.auditing.material import Material
from nearfar.auditing.reading import read_leniently
from nearfar.data.pairs import read_pairs
from nearfar.errors import BadInput

pytest.importorskip("PIL")

from pictured import png


def shard(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_two_samples_of_one_name_are_refused_and_not_merged(tmp_path):
    path = shard(
        tmp_path / "joined.tar",
        *(("0.png", png("red")), ("0.txt", b"first"), ("1.png", png("green")), ("1.txt", b"other")),
        *(("0.png", png("blue")), ("0.txt", b"second")),
    )
    with pytest.raises(BadInput, match=r"joined\.tar::0: its member 0\.png is there twice.*a name of its own"):
        read_pairs(path)
    read = read_leniently(path)
    assert [pair.query for pair in read.pairs] == ["other"]
    assert [one.where for one in read.refused] == [f"{path}::0"]


@pytest.mark.parametrize(
    ("name", "data", "why"), [("0.json", b"{broken", "is no JSON"), ("0.txt", b"\xff\xfe", r"cannot be read .*as UTF-8")]
)
def test_a_text_that_is_none_costs_its_sample_alone(tmp_path, name, data, why):
    path = shard(tmp_path / "s.tar", ("0.png", png("red")), (name, data), ("1.png", png("green")), ("1.txt", b"other"))
    with pytest.raises(BadInput, match=why):
        read_pairs(path)
    read = read_leniently(path)
    assert [pair.query for pair in read.pairs] == ["other"]
    assert [one.where for one in read.refused] == [f"{path}::0"]


def test_no_copy_is_promised_of_what_is_not_copied_row_by_row(tmp_path):
    assert "write the shard again without them" in Material((), (), "set.tar").fix()
    assert "move them out of the folder" in Material((), (), str(tmp_path)).fix()
    assert Material((), (), "set.csv").fix() == "nearfar audit set.csv --fix cleaned.csv"


def test_hidden_files_are_no_pictures_of_the_set(tmp_path):
    for name in ("red/1.png", "red/2.png", "blue/1.png", "blue/._1.png", ".DS.png", ".cache/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png("red", seed=len(name)) if "/" in name else b"")
    pairs = read_pairs(tmp_path).pairs
    assert sorted(pair.group for pair in pairs) == ["blue", "red", "red"]
    (tmp_path / "plain.png").write_bytes(png("red"))
    with pytest.raises(BadInput, match=r"pictures \(plain\.png\) beside folders of pictures \(blue\)"):
        read_pairs(tmp_path)


def test_a_bomb_and_a_folder_in_place_of_a_picture_are_called_so(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    from nearfar.data.pictures import decode_bytes

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(BadInput, match=r"far more pixels than 64,000,000"):
        decode_bytes("bomb.png", bomb, 8)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "1.png").write_bytes(png("red"))
    (tmp_path / "list.csv").write_text("image,caption\n1.png,red\nfolder.png,a folder\n")
    read = read_leniently(tmp_path / "list.csv")
    assert "this is a folder" in read.refused[0].why

"""Decoded pictures: every kind of picture decodes right, broken ones are named and end nothing, and what is kept survives kills and is checked."""

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfar.data import pixel_store
from nearfar.data.pictures import MOST_PIXELS, decode
from nearfar.data.pixel_store import decode_all
from nearfar.data.usable import usable_pairs
from nearfar.errors import BadInput, CannotWrite
from nearfar.types import MinedNegative, Pair, Picture

Image = pytest.importorskip("PIL.Image", reason="needs pillow")


def saved(image, kind: str, **options) -> Picture:
    """A picture of the bytes that pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Picture(f"picture.{kind.lower()}", data=buffer.getvalue())


def slopes(size: int = 32):
    """Red grows to the right, green downwards: turned or mirrored it is another picture."""
    x = np.linspace(0, 255, size).astype(np.uint8)
    return Image.fromarray(
        np.dstack([np.tile(x, (size, 1)), np.tile(x[:, None], (1, size)), np.full((size, size), 80, np.uint8)])
    )


def some(folder: Path, count: int, size: int = 12) -> list[Picture]:
    """So many different pictures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{number:03d}.png")
    return [Picture(folder / f"{number:03d}.png") for number in range(count)]


# every kind


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 98, "subsampling": 0}),
    ],
)
def test_every_format_decodes_to_the_same_picture(kind: str, options: dict):
    found = decode(saved(slopes(), kind, **options), 32).astype(int)
    assert np.abs(found - np.asarray(slopes()).astype(int)).max() <= (6 if kind == "JPEG" else 0)


def test_grey_palette_one_bit_and_cmyk_pictures_are_made_rgb():
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    assert (decode(saved(Image.fromarray(grey), "PNG"), 32) == grey[:, :, None]).all()
    few = slopes().quantize(64)
    assert (decode(saved(few, "PNG"), 32) == np.asarray(few.convert("RGB"))).all()
    bits = Image.fromarray(grey > 100)
    assert (decode(saved(bits, "PNG"), 32)[:, :, 0] == (grey > 100) * 255).all()
    cmyk = slopes().convert("CMYK")
    found = decode(saved(cmyk, "JPEG", quality=98), 32).astype(int)
    assert np.abs(found - np.asarray(cmyk.convert("RGB")).astype(int)).mean() < 4


def test_sixteen_bits_become_eight_by_their_share_and_not_by_cutting_off():
    wide = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    found = decode(saved(Image.fromarray(wide), "PNG"), 32)
    assert np.abs(found[:, :, 0].astype(int) - np.round(wide / 257).astype(int)).max() <= 1


def test_what_is_transparent_is_white():
    clear = slopes().convert("RGBA")
    clear.putalpha(0)
    assert (decode(saved(clear, "PNG"), 8) == 255).all()
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert np.abs(decode(saved(half, "PNG"), 8).astype(int) - 127).max() <= 1
    indexed = Image.new("P", (8, 8), 0)
    indexed.putpalette([9, 9, 9, 200, 0, 0])
    assert (decode(saved(indexed, "PNG", transparency=0), 8) == 255).all()
    assert (decode(saved(Image.new("LA", (8, 8), (10, 0)), "PNG"), 8) == 255).all()


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(turned: int):
    exif = Image.Exif()
    exif[0x0112] = turned
    from PIL import ImageOps

    there = saved(slopes(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(there.read())))
    assert (decode(there, 32) == np.asarray(expected.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    found = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]), 8)
    assert np.abs(found.astype(int) - np.array([255, 0, 0])).max() <= 4


def test_the_middle_square_counts():
    wide = Image.new("RGB", (64, 16), "black")
    wide.paste(slopes(16), (24, 0))
    assert (decode(saved(wide, "PNG"), 16) == np.asarray(slopes(16))).all()


def test_a_large_jpeg_decoded_small_is_nearly_what_it_is_decoded_whole():
    there = saved(slopes(512), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(there.read())).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(decode(there, 32).astype(int) - np.asarray(whole).astype(int)).max() <= 4


# broken


BROKEN = {
    "empty": b"",
    "text": b"not a picture at all",
    "torn png": saved(slopes(), "PNG").read()[:-60],
    "torn jpeg": saved(slopes(), "JPEG").read()[:400],
    "header": saved(slopes(), "PNG").read()[:20],
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named_with_its_mend(name: str):
    with pytest.raises(BadInput, match=r"^cat\.png: .*(Save it again, or leave it out)"):
        decode(Picture("cat.png", data=BROKEN[name]), 8)
    with pytest.raises(BadInput, match=r"nowhere\.png: .*No such file"):
        decode(Picture("nowhere.png"), 8)


def test_a_bomb_is_refused_by_what_it_says_before_it_is_decoded():
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = int(MOST_PIXELS**0.5) + 1
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    with pytest.raises(BadInput, match=r"bomb\.png: .*(pixels, more than 64,000,000|cannot be read)"):
        decode(
            Picture("bomb.png", data=b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")), 8
        )


SOUND = {kind: saved(slopes(16), kind).read() for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.integers(0, 10_000),
)
def test_any_damage_gives_a_picture_or_a_name(kind: str, changes: list[tuple[int, int]], cut: int):
    data = bytearray(SOUND[kind])
    for place, value in changes:
        data[place % len(data)] = value
    data = bytes(data[: cut % (len(data) + 1)] if cut % 3 else data)
    try:
        found = decode(Picture("x", data=data), 8)
    except BadInput as error:
        told = str(error)
    else:
        told = f"x: {found.shape}"
    assert told.startswith("x: ")


# kept


def test_what_is_kept_is_what_decoding_gives_and_a_second_run_decodes_nothing(tmp_path: Path, monkeypatch):
    pictures = some(tmp_path / "p", 20)
    found = decode_all([*pictures, pictures[3]], 8, cache=tmp_path / "c")
    for row, picture in zip(found.rows, [*pictures, pictures[3]], strict=True):
        assert (found.values[row].transpose(1, 2, 0) == decode(picture, 8)).all()
    assert found.rows[3] == found.rows[20]

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(pixel_store, "decode_bytes", never)
    pixel_store._MAPPED.clear()  # as another process would come
    again = decode_all(pictures[::-1], 8, cache=tmp_path / "c")
    assert (again.values[again.rows] == found.values[found.rows[:20][::-1]]).all()
    moved = Picture((tmp_path / "p/004.png").rename(tmp_path / "elsewhere.png"))
    assert decode_all([moved], 8, cache=tmp_path / "c").rows[0] == found.rows[4]
    assert decode_all(pictures[:2], 8, cache=tmp_path / "c").values is decode_all(pictures[2:4], 8, cache=tmp_path / "c").values


def test_a_changed_file_and_another_size_are_decoded_anew(tmp_path: Path):
    pictures = some(tmp_path / "p", 3)
    first = decode_all(pictures, 8, cache=tmp_path / "c")
    slopes(12).save(pictures[1])
    second = decode_all(pictures, 8, cache=tmp_path / "c")
    assert (second.values[second.rows[1]].transpose(1, 2, 0) == decode(pictures[1], 8)).all()
    assert second.rows[0] == first.rows[0]
    assert decode_all(pictures, 9, cache=tmp_path / "c").values.shape[1:] == (3, 9, 9)


def test_broken_pictures_are_listed_and_the_others_are_there(tmp_path: Path):
    pictures = some(tmp_path / "p", 6)
    pictures[1].file.write_bytes(b"")
    pictures[4].file.unlink()
    told = []
    found = decode_all(pictures, 8, cache=tmp_path / "c", progress=lambda *a, **facts: told.append((a, facts)))
    assert found.rows.tolist().count(-1) == 2
    assert [one.number for one in found.unreadable] == [1, 4]
    assert "is empty" in found.unreadable[0].why
    assert "No such file" in found.unreadable[1].why
    assert told[-1] == (("decode pictures", 6, 6), {"unreadable": 2})


@pytest.mark.parametrize("what", ["pixels.u8", "index"])
def test_damage_of_what_is_kept_is_noticed_and_decoded_anew(tmp_path: Path, what: str):
    pictures = some(tmp_path / "p", 5)
    first = decode_all(pictures, 8, cache=tmp_path / "c")
    right = first.values[first.rows].copy()
    path = next((tmp_path / "c").rglob(what))
    data = bytearray(path.read_bytes())
    data[70] ^= 255  # within the first row of pixels; in the third entry of the index
    path.write_bytes(data)
    pixel_store._MAPPED.clear()
    notes: list[str] = []
    found = decode_all(pictures, 8, cache=tmp_path / "c", progress=lambda *a, **facts: notes.append(str(facts.get("note", ""))))
    assert (found.values[found.rows] == right).all()
    assert what == "index" or any("1 pictures were damaged" in note for note in notes)
    pixel_store._MAPPED.clear()
    again = decode_all(pictures, 8, cache=tmp_path / "c")
    assert (again.rows == found.rows).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), garbage=st.binary(max_size=70), of_index=st.booleans())
def test_a_file_cut_off_anywhere_or_with_garbage_at_its_end_gives_the_right_pixels(
    tmp_path: Path, cut: int, garbage: bytes, of_index: bool
):
    import shutil

    pictures = some(tmp_path / "p", 4)
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    pixel_store._MAPPED.clear()
    decode_all(pictures, 6, cache=tmp_path / "c")
    path = next((tmp_path / "c").rglob("index" if of_index else "pixels.u8"))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: cut % (len(data) + 1)] + garbage)
    pixel_store._MAPPED.clear()
    for _ in range(2):
        found = decode_all(pictures, 6, cache=tmp_path / "c")
        for row, picture in zip(found.rows, pictures, strict=True):
            assert (found.values[row].transpose(1, 2, 0) == decode(picture, 6)).all()


def test_a_run_killed_while_it_decodes_loses_nothing_that_was_named(tmp_path: Path):
    pictures = some(tmp_path / "p", 60)
    code = (
        "import sys, time; from pathlib import Path; from nearfar.data import pixel_store as s; from nearfar.types import Picture\n"
        "s.MOST = 1\n"
        "s.decode_all([Picture(p) for p in sorted(Path(sys.argv[1]).iterdir())], 8, cache=Path(sys.argv[2]), threads=1,"
        " progress=lambda *a, **k: (print(a, flush=True), time.sleep(0.01)))"
    )
    for lines in (2, 7, 20):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "p"), str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kept = pixel_store._Store(tmp_path / "c", 8)
        assert len(kept.row_of) >= lines - 1  # the first line says that none is done
    found = decode_all(pictures, 8, cache=tmp_path / "c")
    for row, picture in zip(found.rows, pictures, strict=True):
        assert (found.values[row].transpose(1, 2, 0) == decode(picture, 8)).all()


def test_writers_at_one_time_keep_each_picture_once(tmp_path: Path):
    pictures = some(tmp_path / "p", 30)
    results = {}

    def work(number: int) -> None:
        results[number] = decode_all(pictures[number * 3 :], 8, cache=tmp_path / "c", threads=2)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, found in results.items():
        for row, picture in zip(found.rows, pictures[number * 3 :], strict=True):
            assert (found.values[row].transpose(1, 2, 0) == decode(picture, 8)).all()
    assert len(pixel_store._Store(tmp_path / "c", 8).row_of) == 30


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/pictures").write_text("in the way")
    with pytest.raises((CannotWrite, OSError)):
        decode_all(some(tmp_path / "p", 1), 8, cache=tmp_path / "c")


# pairs without broken pictures


def test_pairs_with_broken_pictures_are_left_out_with_their_places(tmp_path: Path):
    pictures = some(tmp_path / "p", 50)
    pictures[5].file.write_bytes(BROKEN["torn png"])
    pictures[6].file.write_bytes(BROKEN["text"])
    mined = (MinedNegative("dense", 1, 0.5, 0.1), MinedNegative("dense", 2, 0.4, 0.2))
    pairs = [Pair(f"thing {n}", picture) for n, picture in enumerate(pictures)]
    pairs[0] = Pair("thing 0", pictures[0], (pictures[6], pictures[7]), teacher_scores=(3.0, 2.0, 1.0), mined=mined)
    found = usable_pairs(pairs, 8, where=[f"p.csv:{n + 2}" for n in range(50)], cache=tmp_path / "c")
    assert [pair.query for pair in found.pairs] == [f"thing {n}" for n in range(50) if n not in (5, 6)]
    assert found.pairs[0] == Pair("thing 0", pictures[0], (pictures[7],), teacher_scores=(3.0, 1.0), mined=mined[1:])
    assert [one.where for one in found.left_out] == ["p.csv:2", "p.csv:7", "p.csv:8"]
    assert found.said.startswith("3 left out for their pictures (p.csv:2: ")
    assert len(found.where) == len(found.pairs)
    with pytest.raises(BadInput, match=r"of 50 pairs 2 left out .*p\.csv:7"):
        usable_pairs(pairs, 8, where=[f"p.csv:{n + 2}" for n in range(50)], cache=tmp_path / "c", most=0.03)


def test_texts_and_sound_pictures_stay_as_they_are(tmp_path: Path):
    pairs = [Pair("a", "b"), Pair("c", some(tmp_path / "p", 1)[0])]
    found = usable_pairs(pairs, 8, cache=tmp_path / "c")
    assert found.pairs == pairs
    assert found.left_out == ()
    assert found.said == ""

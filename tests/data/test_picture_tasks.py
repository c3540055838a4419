"""Laws of tasks that hold pictures: a BEIR folder with `image` in place of `text`, there and back, and asked the other way."""

from __future__ import annotations

import io
import json

import pytest

from nearfar.data.pictures import decode
from nearfar.data.tasks import read_corpus, read_task, turn, write_task
from nearfar.errors import BadInput
from nearfar.types import Picture, Task

Image = pytest.importorskip("PIL.Image")


def png(colour):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def task(tmp_path):
    """Two pictures: the middle of a bundle, and bytes of a cell; and two captions, one of both."""
    bundle = tmp_path / "bundle.bin"
    red, blue = png("red"), png("blue")
    bundle.write_bytes(b"before" + red + b"after")
    corpus = {
        "r": Picture("set/red.png", file=bundle, offset=6, size=len(red)),
        "b": Picture("set/blue.png", data=blue),
        "t": "a text among them",
    }
    return Task("colours", corpus, {"q1": "a square", "q2": "the sky"}, {"q1": {"r": 1, "b": 1}, "q2": {"b": 2, "t": 0}})


def test_a_task_with_pictures_comes_back_equal_with_its_pixels(task, tmp_path):
    write_task(tmp_path / "colours", task)
    found = read_task(tmp_path / "colours")
    assert found.task == task
    assert found.understood == "colours: 3 documents (2 of them pictures), 2 queries"
    for key, colour in (("r", (255, 0, 0)), ("b", (0, 0, 255))):
        back = found.task.corpus[key]
        assert isinstance(back, Picture)
        assert tuple(decode(back, 8)[0, 0]) == colour
    assert not isinstance(found.task.corpus["t"], Picture)


def test_pictures_may_ask(task, tmp_path):
    write_task(tmp_path / "turned", turn(task))
    found = read_task(tmp_path / "turned").task
    assert found.queries == {"r": "set/red.png", "b": "set/blue.png"}
    assert all(isinstance(query, Picture) for query in found.queries.values())
    assert found.corpus == task.queries
    assert found.judgements == {"r": {"q1": 1}, "b": {"q1": 1, "q2": 2}}


def test_turning_twice_gives_the_judgements_of_what_is_relevant(task):
    back = turn(turn(task), "colours")
    assert back.judgements == {"q1": {"r": 1, "b": 1}, "q2": {"b": 2}}
    assert back.queries == task.queries
    assert back.corpus == {"r": task.corpus["r"], "b": task.corpus["b"]}


def test_a_name_that_leads_out_of_the_folder_gets_one_inside(tmp_path):
    names = ["../outside.png", "table.parquet#3", "a//b.png", "corpus.jsonl/x.png"]
    corpus = {str(n): Picture(name, data=png("red")) for n, name in enumerate(names)}
    write_task(tmp_path / "deep" / "task", Task("task", corpus, {"q": "red"}, {"q": dict.fromkeys(corpus, 1)}))
    back = read_task(tmp_path / "deep" / "task").task.corpus
    assert list(back.values()) == ["images/d0.png", "images/d1", "images/d2.png", "images/d3.png"]
    assert all(decode(picture, 8).shape == (8, 8, 3) for picture in back.values() if isinstance(picture, Picture))
    assert not (tmp_path / "deep" / "outside.png").exists()


def test_a_file_of_the_user_stays_where_it_is(tmp_path):
    own = tmp_path / "photo.png"
    own.write_bytes(png("red"))
    task = Task("task", {"p": Picture(own)}, {"q": "red"}, {"q": {"p": 1}})
    write_task(tmp_path / "task", task)
    assert read_task(tmp_path / "task").task == task
    assert not list((tmp_path / "task").rglob("*.png"))


def test_a_picture_in_a_cell_of_a_table_is_its_bytes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"_id": ["a", "b"], "image": [{"bytes": png("red"), "path": None}] * 2}), tmp_path / "corpus.parquet"
    )
    found = read_corpus(tmp_path / "corpus.parquet")
    assert [tuple(decode(p, 8)[0, 0]) for p in found.values() if isinstance(p, Picture)] == [(255, 0, 0)] * 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"_id": "a", "image": "gone.png"}, r"corpus.jsonl:1: gone.png: no such file"),
        (
            {"_id": "a", "image": "here.png", "text": "a house"},
            r"corpus.jsonl:1: 'a' has both an image and a text \('a house'\)",
        ),
        ({"_id": "a", "image": 3}, r"corpus.jsonl:1: 'image' is int"),
    ],
)
def test_a_faulty_picture_is_named_by_file_and_line(tmp_path, row, says):
    (tmp_path / "here.png").write_bytes(png("red"))
    (tmp_path / "corpus.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=says):
        read_corpus(tmp_path / "corpus.jsonl")


def test_a_picture_that_is_gone_cannot_be_written(tmp_path):
    task = Task("task", {"p": Picture("p.png", file=tmp_path / "gone.png")}, {"q": "red"}, {"q": {"p": 1}})
    with pytest.raises(BadInput, match=r"p\.png: this picture cannot be read"):
        write_task(tmp_path / "task", task)
    assert not (tmp_path / "task").exists()

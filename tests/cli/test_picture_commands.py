"""Laws of the commands where pictures are: indexed by folder, brought up to date, searched by text and by picture, judged both ways."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from nearfar.cli import main
from nearfar.cli.run_report import next_commands
from nearfar.data.tasks import write_task
from nearfar.encoders import load_encoder
from nearfar.index import IndexedPicture, open_index
from nearfar.types import Picture, Task

pytest.importorskip("PIL")

from pictured import COLOURS, png
from tiny import tiny_transformer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_transformer(folder / "words")
    load_encoder(f"clip:small-image:16+{folder / 'words'}", dim=16).save(folder / "both")
    return folder / "both"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    for number, colour in enumerate(COLOURS):
        file = place / ("deep" if number % 2 else ".") / f"{colour}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(colour, size=16, seed=number))
    return place


def run(*arguments):
    return main([str(argument) for argument in arguments])


def told(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_a_folder_of_pictures_is_indexed_and_a_picture_finds_itself(model, folder, tmp_path, capsys):
    assert run("index", model, folder, "-o", tmp_path / "index") == 0
    assert "5 pictures, exact" in capsys.readouterr().out
    for key in ("red.png", "deep/green.png"):
        assert run("search", tmp_path / "index", "--image", folder / key, "-k", 3, "--json") == 0
        [search] = told(capsys)["searches"]
        best = search["results"][0]
        assert (best["id"], best["file"]) == (key, str(folder / key))
        assert best["score"] == pytest.approx(1, abs=1e-5)
    assert run("search", tmp_path / "index", "a red square", "-k", 2) == 0
    assert capsys.readouterr().out.count(str(folder)) == 2


def test_indexing_again_encodes_only_what_is_new_or_changed(model, folder, tmp_path, capsys):
    index = tmp_path / "index"
    assert run("index", model, folder, "-o", index, "--json") == 0
    before = open_index(index)
    rows = dict(zip(before.keys, np.array(before._rows.array), strict=True))
    assert "updated" not in told(capsys)
    (folder / "new.png").write_bytes(png("red", size=16, seed=50))
    (folder / "red.png").write_bytes(png("green", size=16, seed=51))
    (folder / "blue.png").unlink()
    (folder / "deep" / "yellow.png").unlink()
    assert run("index", model, folder, "-o", index, "--json") == 0
    assert told(capsys)["updated"] == {"kept": 2, "added": 1, "changed": 1, "removed": 2}
    after = open_index(index)
    fresh = tmp_path / "fresh"
    assert run("index", model, folder, "-o", fresh) == 0
    anew = open_index(fresh)
    assert sorted(after.keys) == sorted(anew.keys)
    for key, row in zip(after.keys, after._rows.array, strict=True):
        assert row == pytest.approx(anew._rows.array[anew.keys.index(key)], abs=1e-6)
        if key in ("deep/green.png", "black.png"):
            assert np.array_equal(row, rows[key])
    assert {str(d): d.content for d in after.documents} == {str(d): d.content for d in anew.documents}


def test_a_folder_that_moved_keeps_its_vectors_and_gets_its_new_place(model, folder, tmp_path, capsys):
    assert run("index", model, folder, "-o", tmp_path / "index") == 0
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    capsys.readouterr()
    assert run("index", model, moved, "-o", tmp_path / "index", "--json") == 0
    assert told(capsys)["updated"] == {"kept": 5, "added": 0, "changed": 0, "removed": 0}
    documents = open_index(tmp_path / "index").documents
    assert all(isinstance(d, IndexedPicture) and d.file.is_relative_to(moved) for d in documents)


def test_a_model_that_moved_is_found_at_its_new_place(model, folder, tmp_path):
    shutil.copytree(model, tmp_path / "before")
    assert run("index", tmp_path / "before", folder, "-o", tmp_path / "index") == 0
    shutil.move(tmp_path / "before", tmp_path / "after")
    assert run("index", tmp_path / "after", folder, "-o", tmp_path / "index") == 0
    assert run("search", tmp_path / "index", "red") == 0


def test_what_comes_next_is_told_of_what_the_model_reads(model, folder, tmp_path, capsys):
    assert run("index", model, folder, "-o", tmp_path / "index") == 0
    assert "index 'your query'" in capsys.readouterr().out
    assert run("index", "small-image:16", folder, "-o", tmp_path / "seen") == 0
    assert "seen --image PICTURE" in capsys.readouterr().out
    assert next_commands(tmp_path, load_encoder("small-image:16"))[1] == "nearfar search INDEX --image PICTURE"
    assert "PHOTOS/" in next_commands(tmp_path, load_encoder(str(model)))[0]
    assert "CORPUS" in next_commands(tmp_path, None)[0]


def test_broken_pictures_are_named_and_counted_and_the_others_indexed(model, folder, tmp_path, capsys):
    (folder / "torn.png").write_bytes(png("red", size=64)[:50])
    (folder / "empty.jpg").write_bytes(b"")
    assert run("index", model, folder, "-o", tmp_path / "index") == 0
    out = capsys.readouterr().out
    assert "5 pictures" in out
    assert "2 pictures cannot be read and were left out" in out
    assert "torn.png: this picture cannot be read" in out
    assert run("index", model, folder, "-o", tmp_path / "index", "--json") == 0
    again = told(capsys)
    assert again["updated"]["kept"] == 5
    assert {broken["picture"] for broken in again["broken"]} == {"torn.png", "empty.jpg"}


def test_a_folder_of_broken_pictures_alone_is_refused(model, tmp_path, capsys):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "torn.png").write_bytes(b"x")
    assert run("index", model, tmp_path / "all", "-o", tmp_path / "index") == 2
    assert "none of the 1 pictures can be read" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_the_page_of_results_holds_the_pictures_themselves(model, folder, tmp_path, capsys):
    assert run("index", model, folder, "-o", tmp_path / "index") == 0
    page = tmp_path / "out.html"
    query = folder / "red.png"
    assert run("search", tmp_path / "index", "red <b>square", "--image", query, "--html", page, "-k", 3) == 0
    text = page.read_text()
    assert text.count('<img src="data:image/') == 7  # three results twice, and the picture that was asked with
    assert "red &lt;b&gt;square" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "red.png" in text
    shutil.rmtree(folder)
    assert run("search", tmp_path / "index", "red", "--html", page, "-k", 3) == 0
    assert page.read_text().count("not shown") == 3


def test_a_page_of_texts_shows_them(tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "a red river"}\n{"_id": "b", "text": "a blue car"}\n')
    assert run("index", "bm25", corpus, "-o", tmp_path / "index") == 0
    assert run("search", tmp_path / "index", "river", "--html", tmp_path / "out.html") == 0
    assert "a red river" in (tmp_path / "out.html").read_text()


def test_texts_are_brought_up_to_date_too(model, tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    lines = [{"_id": str(n), "text": f"{word} river"} for n, word in enumerate(("red", "blue", "green"))]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("index", model, corpus, "-o", tmp_path / "index") == 0
    lines[1]["text"] = "another text"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert run("index", model, corpus, "-o", tmp_path / "index", "--json") == 0
    assert told(capsys)["updated"] == {"kept": 2, "added": 0, "changed": 1, "removed": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image", "gone.png"], "--image gone.png: no such file"),
        (["red", "--html", "page.txt"], "the page is HTML"),
    ],
)
def test_what_cannot_be_searched_is_said(model, folder, tmp_path, capsys, arguments, says):
    assert run("index", model, folder, "-o", tmp_path / "index") == 0
    assert run("search", tmp_path / "index", *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_lexical_index_takes_no_pictures(folder, tmp_path, capsys):
    assert run("index", "bm25", folder, "-o", tmp_path / "index") == 2
    assert "a lexical index compares words" in capsys.readouterr().err
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "a red river"}\n')
    assert run("index", "bm25", corpus, "-o", tmp_path / "index") == 0
    assert run("search", tmp_path / "index", "--image", folder / "red.png") == 2
    assert "a picture, and this index is lexical" in capsys.readouterr().err


@pytest.fixture
def task(folder, tmp_path):
    corpus = {c: Picture(f"{c}.png", data=png(c, size=16)) for c in COLOURS}
    queries = {f"{c}-{n}": f"{word} {c}" for c in COLOURS for n, word in enumerate(("small", "big"))}
    made = Task("colours", corpus, queries, {key: {key.split("-")[0]: 1} for key in queries})
    write_task(tmp_path / "colours", made)
    return tmp_path / "colours"


def test_pictures_and_texts_are_judged_both_ways_and_kept_for_compare(model, task, tmp_path, capsys):
    assert run("evaluate", model, "--task", task) == 0
    out = capsys.readouterr().out
    assert "5 documents (pictures), 10 queries" in out
    assert "text -> picture" in out
    assert "Modality gap" in out
    assert run("evaluate", model, "--task", task, "--json", "-o", tmp_path / "kept.json") == 0
    found = told(capsys)
    assert found["text_to_image"]["queries"] == 10
    assert found["image_to_text"]["queries"] == 5
    assert found["text_to_image"]["metrics"]["success@5"]["mean"] == 1  # five pictures
    assert run("compare", tmp_path / "kept.json", tmp_path / "kept.json", "--metric", "success@1") == 0
    assert run("evaluate", model, "--task", task, "--metric", "ndcg@10") == 0
    assert "nDCG@10" in capsys.readouterr().out
    assert run("evaluate", "bm25", "--task", task) == 2
    assert "this task has pictures" in capsys.readouterr().err


def test_classes_are_told_by_their_names(model, tmp_path, capsys):
    for colour in ("red", "blue"):
        for number in range(3):
            file = tmp_path / "classes" / colour / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(colour, size=16, seed=number))
    assert run("evaluate", model, "--classes", tmp_path / "classes", "--template", "a photo of a {}", "--json") == 0
    found = told(capsys)
    assert [c["pictures"] for c in found["classes"]] == [3, 3]
    assert found["probes"] == {}
    assert 0 <= found["accuracy"]["low"] <= found["accuracy"]["mean"] <= found["accuracy"]["high"] <= 1
    known = tmp_path / "known"
    for colour in ("red", "blue"):
        for number in range(12):
            file = known / colour / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(colour, size=16, seed=100 + number))
    capsys.readouterr()
    assert run("evaluate", "small-image:16", "--classes", tmp_path / "classes", "--known", known, "--json") == 0
    probes = told(capsys)["probes"]
    assert {name: found["mean"] for name, found in probes.items()} == {"20 neighbours": 1, "linear layer": 1}
    assert run("evaluate", "small-image:16", "--classes", tmp_path / "classes") == 2
    assert "it reads no text" in capsys.readouterr().err
    (tmp_path / "classes" / "loose.png").write_bytes(png("red"))
    assert run("evaluate", model, "--classes", tmp_path / "classes") == 2
    assert "lies in no class" in capsys.readouterr().err
    assert run("evaluate", model) == 2

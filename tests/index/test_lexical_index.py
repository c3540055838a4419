"""Laws of the index of words: Lucene's BM25 of stems, and nothing that shares no word."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from nearfar.errors import BadInput
from nearfar.index import LexicalIndex
from nearfar.index.lexical import K1, B

DOCUMENTS = ["the cats sat on a mat", "dogs and a cat", "running river", "the", "cat cat river stone lantern"]


def test_scores_are_lucenes_formula():
    index = LexicalIndex.build([*"abcde"], DOCUMENTS)
    stems = [["cat", "sat", "mat"], ["dog", "cat"], ["run", "river"], [], ["cat", "cat", "river", "stone", "lantern"]]
    mean = np.mean([len(s) for s in stems])
    expected = {}
    for row, words in enumerate(stems):
        score = 0.0
        for term in ("cat", "river"):
            df = sum(term in s for s in stems)
            tf = words.count(term)
            idf = math.log(1 + (len(stems) - df + 0.5) / (df + 0.5))
            score += idf * tf / (tf + K1 * (1 - B + B * len(words) / mean))
        if score:
            expected[row] = score
    hits = index.search(["cats by rivers"], 5)
    assert hits.ids[0, :4].tolist() == sorted(expected, key=lambda row: (-expected[row], row))
    assert np.allclose(hits.scores[0, :4], [expected[i] for i in hits.ids[0, :4].tolist()], rtol=1e-5)


@pytest.mark.parametrize("query", ["", "the", "zebra", "?!", "the of and", "zebra unicorn"])
def test_a_query_without_a_known_word_finds_nothing(query):
    hits = LexicalIndex.build([*"abcde"], DOCUMENTS).search([query, "cat"], 5)
    assert (hits.ids[0] == -1).all()
    assert np.isneginf(hits.scores[0]).all()
    assert hits.ids[1, 0] >= 0


def test_no_document_that_shares_no_word_is_ever_found():
    hits = LexicalIndex.build([*"abcde"], DOCUMENTS).search(["dogs zebra"], 5)
    assert hits.ids[0].tolist() == [1, -1, -1, -1, -1]
    assert (hits.scores[0, :1] > 0).all()


def test_unknown_words_change_no_score():
    index = LexicalIndex.build([*"abcde"], DOCUMENTS)
    hits = index.search(["cat river", "cat zebra river unicorn"], 5)
    assert np.array_equal(hits.scores[0], hits.scores[1])


def test_one_text_or_vectors_in_place_of_texts_are_refused():
    index = LexicalIndex.build([*"abcde"], DOCUMENTS)
    for wrong in ("cat", np.zeros((1, 4), dtype=np.float32)):
        with pytest.raises(BadInput, match="list of texts"):
            index.search(wrong, 3)  # pyright: ignore[reportArgumentType]


def test_the_same_documents_make_the_same_bytes_whatever_the_hash_seed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from nearfar.index import LexicalIndex;"
        "LexicalIndex.build(['a', 'b'], ['river stone lantern', 'copper violin river']).save(Path(sys.argv[1]));"
        "assert 'torch' not in sys.modules, 'a lexical index needs no torch'"
    )
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / seed)], check=True, env={"PYTHONHASHSEED": seed})
    files = [{p.name: p.read_bytes() for p in (tmp_path / seed).iterdir()} for seed in ("1", "2")]
    assert files[0] == files[1]

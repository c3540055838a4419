"""Laws of searching texts with texts: the encoder of the index, the documents and scores it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.embedding import embed
from nearfar.encoders import load_encoder
from nearfar.errors import BadInput, Mismatch
from nearfar.index import open_index
from nearfar.retrieval import SearchResult, build_index, search

from tiny import WORDS, tiny_transformer

CORPUS = {f"doc-{i}": " ".join(WORDS[j % len(WORDS)] for j in (i, 2 * i + 1, 3 * i + 2)) for i in range(20)}
dense = pytest.mark.parametrize("kind", ["exact", "approximate"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(tiny_transformer(tmp_path_factory.mktemp("model") / "tiny"))


@dense
def test_results_are_the_documents_of_largest_dot_product(encoder, kind):
    index = build_index(encoder, CORPUS, kind=kind, name="tiny")
    queries = ["find the river", "open a file"]
    similarity = embed(encoder, queries, role="query") @ embed(encoder, list(CORPUS.values())).T
    for found, row in zip(search(index, encoder, queries, k=3), similarity, strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        assert [r.id for r in found] == [f"doc-{i}" for i in best]
        assert [r.text for r in found] == [CORPUS[r.id] for r in found]
        assert np.allclose([r.score for r in found], row[best], atol=1e-5)


@dense
def test_a_saved_index_answers_the_same(encoder, kind, tmp_path):
    index = build_index(encoder, CORPUS, kind=kind, name="tiny")
    index.save(tmp_path / "index")
    assert search(open_index(tmp_path / "index"), encoder, ["river"]) == search(index, encoder, ["river"])


@dense
def test_another_encoder_is_refused_with_the_name_of_the_first(encoder, kind, tmp_path):
    index = build_index(encoder, CORPUS, kind=kind, name="tiny-one")
    other = load_encoder(tiny_transformer(tmp_path / "other", seed=1))
    with pytest.raises(Mismatch, match=r"'tiny-one'.*index the documents again"):
        search(index, other, ["river"])


def test_a_lexical_index_is_built_and_searched_without_an_encoder():
    index = build_index(None, {"a": "a red river", "b": "a blue car"}, kind="lexical")
    found = search(index, None, ["rivers", "the nothing"], k=5)
    assert [[r.id for r in row] for row in found] == [["a"], []]
    assert isinstance(found[0][0], SearchResult)


def test_an_empty_corpus_finds_nothing(encoder):
    assert search(build_index(encoder, {}, name="tiny"), encoder, ["river"]) == [[]]


def test_no_queries_give_no_results(encoder):
    assert search(build_index(encoder, CORPUS, name="tiny"), encoder, []) == []


def test_one_text_in_place_of_a_list_is_refused(encoder):
    with pytest.raises(BadInput, match="found one text"):
        search(build_index(encoder, CORPUS, name="tiny"), encoder, "river")


def test_an_encoder_too_few_or_too_many_is_refused(encoder):
    exact, lexical = build_index(encoder, CORPUS, name="tiny"), build_index(None, CORPUS, kind="lexical")
    with pytest.raises(BadInput, match="'tiny'"):
        search(exact, None, ["river"])
    with pytest.raises(Mismatch, match="lexical"):
        search(lexical, encoder, ["river"])
    with pytest.raises(BadInput, match="needs one"):
        build_index(None, CORPUS, kind="exact")
    with pytest.raises(BadInput, match="has no vectors"):
        build_index(encoder, CORPUS, kind="lexical")


def test_an_unknown_kind_names_the_kinds(encoder):
    with pytest.raises(BadInput, match="exact, approximate or lexical"):
        build_index(encoder, CORPUS, kind="flat")  # pyright: ignore[reportArgumentType]


def test_progress_counts_to_the_end(encoder):
    seen = []
    build_index(encoder, CORPUS, name="tiny", progress=lambda stage, done, total, **facts: seen.append((stage, done, total)))
    assert {stage for stage, _, _ in seen} == {"index"}
    assert seen[-1][1] == seen[-1][2]

"""A table made of a transformer: the same every time, weighted by what the texts hold."""

import numpy as np
import pytest
import torch

from nearfar.embedding import embed
from nearfar.encoders import distill, load_encoder
from nearfar.encoders.distill import rarity, zipf
from nearfar.errors import BadConfig, BadInput
from nearfar.exporting import export_table, token_frequencies
from nearfar.exporting.record import read_record

from tiny import tiny_tokenizer, tiny_transformer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return load_encoder(tiny_transformer(tmp_path_factory.mktemp("teacher") / "tiny"))


def test_frequencies_are_shares_that_follow_the_texts_and_else_zipf(teacher):
    size = teacher.tokenizer.get_vocab_size()
    cat, dog = (teacher.tokenizer.token_to_id(word) for word in ("cat", "dog"))
    found = token_frequencies(teacher, ["cat " * 50] * 3000)
    assert float(found.sum()) == pytest.approx(1)
    assert float(found[cat]) == pytest.approx(150_000 / 160_000, rel=0.01)
    assert float(found[dog]) == pytest.approx(float(zipf(size)[dog]) / 16)
    assert float((token_frequencies(teacher, ["cat"]) - zipf(size)).abs().max()) < 1e-4


def test_a_token_common_in_the_texts_weighs_less(teacher):
    texts = ["the cat sat", "the dog ran", "the end"] * 4000
    plain, told = distill(teacher, dim=8), distill(teacher, dim=8, frequencies=token_frequencies(teacher, texts))
    the, tree = (teacher.tokenizer.token_to_id(word) for word in ("the", "tree"))
    sizes = [{token: float(table.weight[token].detach().norm()) for token in (the, tree)} for table in (plain, told)]
    assert sizes[1][the] / sizes[1][tree] < sizes[0][the] / sizes[0][tree]


def test_zipfs_law_given_as_frequencies_is_the_table_without_any(teacher):
    given = distill(teacher, dim=8, frequencies=zipf(teacher.tokenizer.get_vocab_size()))
    assert torch.equal(given.weight, distill(teacher, dim=8).weight)


def test_rarity_falls_as_a_token_grows_common_from_one():
    weights = rarity(torch.tensor([0.0, 1e-4, 0.5]))
    assert weights.tolist() == pytest.approx([1.0, 0.5, 1e-4 / (1e-4 + 0.5)])


def test_the_same_teacher_and_texts_give_the_same_bytes(teacher, tmp_path):
    texts = ["the cat sat", "a dog ran"]
    for name in ("a", "b"):
        export_table(teacher, tmp_path / name / "out", name="tiny", dim=8, texts=texts)
    records = [(tmp_path / name / "out" / "export.json").read_bytes() for name in ("a", "b")]
    assert records[0] == records[1]


def test_a_table_is_what_both_libraries_load(teacher, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = export_table(teacher, tmp_path / "out", name="tiny", dim=8)
    opened = load_encoder(tmp_path / "out")
    record = read_record(tmp_path / "out")
    assert (told.dim, opened.dim, record["vocabulary"]) == (8, 8, tiny_tokenizer().get_vocab_size())
    assert record["teacher"] == teacher.fingerprint()
    assert record["model"] == opened.fingerprint()
    texts = ["the cat", "open a file"]
    rows = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(rows, embed(opened, texts), atol=1e-6)


def test_what_a_table_cannot_be_made_of_is_refused_and_nothing_is_left(teacher, tmp_path):
    export_table(teacher, tmp_path / "out", name="tiny", dim=8)
    with pytest.raises(BadInput, match="token table"):
        export_table(load_encoder(tmp_path / "out"), tmp_path / "again", name="out")
    with pytest.raises(BadConfig, match="dim=33"):
        export_table(teacher, tmp_path / "again", name="tiny", dim=33)
    with pytest.raises(BadInput, match="found none"):
        export_table(teacher, tmp_path / "again", name="tiny", dim=8, texts=[])
    assert [p.name for p in tmp_path.iterdir()] == ["out"]

"""An exported folder gives one and the same rows in sentence-transformers and in nearfar, cut or whole."""

import numpy as np
import pytest
import torch

from nearfar.embedding import embed
from nearfar.encoders import Prompts, StaticEncoder, TransformerEncoder, TwoTowerEncoder, grow, load_encoder
from nearfar.encoders.adapt import cut_rows
from nearfar.errors import BadConfig, BadInput, Damaged
from nearfar.exporting import export_folder
from nearfar.exporting.record import read_record

from tiny import tiny_tokenizer, tiny_transformer

TEXTS = ["dog", "the cat", "open a file and read all lines of it", "naïve 東京 🙂", "sort " * 90]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def table(dim=16, **options):
    weight = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(weight, tiny_tokenizer(), **options)


def transformer(folder, **options):
    plain = load_encoder(tiny_transformer(folder))
    return TransformerEncoder(plain.model, plain.hf_tokenizer, prompts=Prompts("query: ", "passage: "), **options)


def peer_rows(folder, role):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    encode = model.encode_query if role == "query" else model.encode_document
    return encode(TEXTS, show_progress_bar=False)


def made(kind, folder):
    """An encoder of this kind."""
    encoders = {
        "table": lambda: table(prompts=Prompts("find ", "")),
        "long rows": lambda: table(normalize=False),
        "transformer": lambda: transformer(folder),
        "long transformer": lambda: transformer(folder, normalize=False, pooling="cls"),
        "with a head": lambda: grow(transformer(folder), head="mlp", head_dim=20),
        "cut before": lambda: transformer(folder, truncate_dim=14),
        "towers": lambda: TwoTowerEncoder(table(), grow(transformer(folder), head="linear", head_dim=16)),
    }
    return encoders[kind]()


@pytest.mark.parametrize(
    "kind", ["table", "long rows", "transformer", "long transformer", "with a head", "cut before", "towers"]
)
def test_rows_cut_to_k_dimensions_are_unit_and_the_same_for_both(tmp_path, kind):
    encoder = made(kind, tmp_path / "tiny")
    told = export_folder(encoder, tmp_path / "out", name="tiny", dim=6)
    assert told.dim == 6
    opened = load_encoder(tmp_path / "out")
    for role in ("query", "document"):
        first = embed(encoder, TEXTS, role=role)[:, :6]
        wanted = first / np.linalg.norm(first, axis=1, keepdims=True)
        np.testing.assert_allclose(embed(opened, TEXTS, role=role), wanted, atol=1e-6)
        np.testing.assert_allclose(peer_rows(tmp_path / "out", role), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["table", "long rows", "transformer", "cut before"])
def test_without_a_cut_the_rows_are_the_models_own_for_both(tmp_path, kind):
    encoder = made(kind, tmp_path / "tiny")
    export_folder(encoder, tmp_path / "out", name="tiny")
    wanted = embed(encoder, TEXTS)
    np.testing.assert_allclose(embed(load_encoder(tmp_path / "out"), TEXTS), wanted, atol=1e-6)
    np.testing.assert_allclose(peer_rows(tmp_path / "out", "document"), wanted, atol=1e-5)


def test_the_encoder_given_is_not_changed(tmp_path):
    encoder = transformer(tmp_path / "tiny").train()
    before = encoder.fingerprint()
    export_folder(encoder, tmp_path / "out", name="tiny", dim=6)
    assert encoder.fingerprint() == before
    assert encoder.training


@pytest.mark.parametrize("dim", [0, 17])
def test_more_dimensions_than_there_are_are_refused_and_nothing_is_left(tmp_path, dim):
    with pytest.raises(BadConfig, match="from 1 to 16"):
        export_folder(table(), tmp_path / "out", name="table", dim=dim)
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_an_export_and_nothing_else(tmp_path):
    first = export_folder(table(), tmp_path / "out", name="table")
    assert export_folder(cut_rows(table(), 4), tmp_path / "out", name="table").dim == 4
    assert read_record(first.folder)["dim"] == 4
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, says in ((other, "notes.txt"), (tmp_path / "file", "this is a file")):
        with pytest.raises(BadInput, match=says):
            export_folder(table(), place, name="table")
    assert (other / "notes.txt").read_text() == "mine"
    (other / "export.json").write_text("{}")
    with pytest.raises(Damaged, match="no record of an export"):
        export_folder(table(), other, name="table")


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export_folder(table(), tmp_path / name / "out", name="table")
    records = [(tmp_path / name / "out" / "export.json").read_bytes() for name in ("a", "b")]
    assert records[0] == records[1]

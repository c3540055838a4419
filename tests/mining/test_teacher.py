"""A cross-encoder from a folder: its scores are transformers' own, it is asked once, and what is no teacher is named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_mine import ANY
from transformers import BertConfig, BertForSequenceClassification
from worlds import ENCODER

from nearfar.errors import BadInput, Damaged
from nearfar.mining import CrossEncoder, mine
from nearfar.mining.teacher import is_cross_encoder

from tiny import tiny_pairs, tiny_tokenizer, tiny_transformer


def tiny_cross_encoder(folder, *, seed=0, outputs=1):
    """A random two-layer BERT that reads two texts."""
    tiny_transformer(folder)
    size = tiny_tokenizer().get_vocab_size()
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=outputs,
    )
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.eval().save_pretrained(folder)
    return folder


def logit(teacher, query, document):
    """One pair at a time, unpadded."""
    tokens = teacher.tokenizer(query, document, truncation="longest_first", max_length=teacher.max_length, return_tensors="pt")
    with torch.inference_mode():
        return float(teacher.model(**tokens).logits[0, 0])


def test_scores_in_batches_of_like_length_equal_one_pair_at_a_time(tmp_path):
    teacher = CrossEncoder(tiny_cross_encoder(tmp_path / "cross"))
    pairs = tiny_pairs(20)
    queries = [p.query for p in pairs]
    documents = [" ".join([p.positive] * (1 + i % 5 * 9)) for i, p in enumerate(pairs)]
    found = teacher.score(queries, documents)
    assert found == pytest.approx([logit(teacher, q, d) for q, d in zip(queries, documents, strict=True)], abs=1e-4)
    assert found.std() > 0.01
    assert teacher.max_length == 64


def test_a_cross_encoder_drops_likely_positives_and_its_scores_are_kept_and_asked_once(tmp_path, monkeypatch):
    folder, pairs = tiny_cross_encoder(tmp_path / "cross"), tiny_pairs(25)
    asked = []
    own = CrossEncoder.score

    def score(self, queries, documents, *rest):
        asked.extend(zip(queries, documents, strict=True))
        return own(self, queries, documents, *rest)

    monkeypatch.setattr(CrossEncoder, "score", score)
    options = {"encoder": ENCODER, "rule": replace(ANY, count=3), "teacher": folder, "cache": tmp_path / "kept"}
    found = mine(pairs, **options)
    assert len(asked) == len(set(asked))
    teacher = CrossEncoder(folder)
    for pair in found.pairs:
        near = np.array([logit(teacher, pair.query, text) for text in (pair.positive, *pair.negatives)])
        if pair.negatives:
            assert pair.teacher_scores == pytest.approx(near.tolist(), abs=1e-4)
            assert (near[1:] <= near[0] - 0.05 * abs(near[0]) + 1e-4).all()
    assert found.summary.dropped["teacher"] > 0
    # no more are asked than could be taken: those before the last that was
    assert len(asked) < 25 * (1 + 20)
    asked.clear()
    assert mine(pairs, **options).pairs == found.pairs
    assert asked == []


def test_a_cross_encoder_of_sentence_transformers_gives_its_logits(tmp_path):
    peer = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    own = peer.CrossEncoder(str(tiny_cross_encoder(tmp_path / "cross")), device="cpu")
    own.save_pretrained(str(tmp_path / "saved"))
    pairs = [(p.query, p.positive) for p in tiny_pairs(8)]
    expected = own.predict(pairs, activation_fn=torch.nn.Identity())
    assert is_cross_encoder(tmp_path / "saved")
    found = CrossEncoder(tmp_path / "saved").score(*map(list, zip(*pairs, strict=True)))
    assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_what_is_no_teacher_is_named(tmp_path):
    with pytest.raises(BadInput, match="it has 3 outputs, and a teacher says one number"):
        CrossEncoder(tiny_cross_encoder(tmp_path / "three", outputs=3))
    with pytest.raises(BadInput, match="this is no cross-encoder"):
        CrossEncoder(tiny_transformer(tmp_path / "encoder"))
    torn = tiny_cross_encoder(tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(Damaged, match="the cross-encoder cannot be opened"):
        CrossEncoder(torn)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(Damaged, match="there is no tokenizer"):
        CrossEncoder(Path(empty))

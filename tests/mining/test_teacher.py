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

from nearfar.encoders import load_encoder
from nearfar.encoders.folder import is_cross_encoder
from nearfar.errors import BadInput, Damaged
from nearfar.mining import CrossEncoder, mine

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


def test_a_folder_with_modules_is_a_cross_encoder_only_where_it_says_so(tmp_path):
    folder = tiny_cross_encoder(tmp_path / "cross")
    assert is_cross_encoder(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    assert not is_cross_encoder(folder)
    assert load_encoder(folder).dim == 32
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    assert is_cross_encoder(folder)


def test_a_cross_encoder_as_an_encoder_is_refused_and_told_what_it_is_for(tmp_path):
    folder = tiny_cross_encoder(tmp_path / "cross")
    for name in (folder, f"static:{folder}"):
        with pytest.raises(BadInput, match=r"this is a cross-encoder .* --teacher .*cross -o"):
            load_encoder(name)


def test_a_file_as_a_model_is_said_to_be_a_file(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(BadInput, match="this is a file, and a model is a folder"):
        mine(tiny_pairs(4), encoder=ENCODER, teacher=tmp_path / "model.safetensors")


@pytest.mark.parametrize("open_", [CrossEncoder, load_encoder])
def test_a_configuration_that_does_not_fit_names_the_first_weight_and_both_shapes(tmp_path, open_):
    folder = tmp_path / "model"
    tiny_cross_encoder(folder) if open_ is CrossEncoder else tiny_transformer(folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "intermediate_size": 48}))
    said = r"do not fit: (bert\.)?encoder\.layer\.0\.intermediate\.dense\.bias is 64, and config.json makes it 48, and \d+ more"
    with pytest.raises(Damaged, match=said):
        open_(folder)

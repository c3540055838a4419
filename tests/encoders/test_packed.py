"""BERT run packed equals transformers' own, in every gradient; its dropout is dropout; its precision is bfloat16's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from nearfar.encoders import Tokens, dropout, load_encoder, packed
from nearfar.encoders.dropout import STEPS, draw, keep, keep_mask, kept_part, kept_share, mark_dropped, unmarked
from nearfar.encoders.packed import GROUP_SCORES, group_texts, plan_of, run_packed
from nearfar.errors import BadConfig

from tiny import tiny_transformer

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 70,
}
KINDS = {
    "bert": lambda: BertModel(BertConfig(vocab_size=99, **SIZES)),
    "roberta": lambda: RobertaModel(RobertaConfig(vocab_size=99, **SIZES)),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(vocab_size=99, pad_token_id=4, **SIZES)),
}


def model_of(kind, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = KINDS[kind]()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return model.double().eval()


def texts_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return Tokens.of([rng.integers(10, 99, n).tolist() for n in lengths])


def as_transformers_runs_it(model, tokens):
    """Each text alone, as the model's own forward takes it."""
    parts = [
        model(input_ids=torch.from_numpy(tokens.ids[a:b].astype(np.int64))[None]).last_hidden_state[0]
        for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
        if b > a
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [33, 30, 12, 11, 3, 1], [64, 64, 9, 0, 0], [2, 40, 7]])
def test_packed_rows_and_every_gradient_equal_each_text_alone_in_transformers(kind, lengths):
    model, tokens = model_of(kind), texts_of(lengths)
    plan = plan_of(model)
    assert plan is not None
    upstream = torch.randn(len(tokens.ids), 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for run in (
        lambda: run_packed(plan, dict(model.named_parameters()), tokens, is_training=False),
        lambda: as_transformers_runs_it(model, tokens),
    ):
        model.zero_grad()
        rows = run()
        (rows * upstream).sum().backward()
        found.append((rows.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name in found[0][1]:
        # blanks of a padded group are float32 zeros and infinities: they change nothing
        torch.testing.assert_close(found[0][1][name], found[1][1][name], rtol=1e-6, atol=1e-8)


def test_without_a_gradient_torchs_fused_attention_gives_the_same_rows(monkeypatch):
    found = []
    for tiles in (False, True):
        monkeypatch.setattr(packed, "has_tiles", lambda tiles=tiles: tiles)
        encoder = load_encoder("minilm")
        inputs = encoder.prepare(["", "a text", "a text of more words than others", "one " * 300], "document")
        with torch.inference_mode(), encoder.computing("bfloat16"):
            found.append(encoder.eval()(inputs))
    assert not torch.equal(*found)  # two ways
    assert torch.allclose(*found, atol=4e-3)


@pytest.mark.parametrize("tiles", [False, True])
def test_in_training_rows_are_the_same_with_a_gradient_and_without(monkeypatch, tiles):
    monkeypatch.setattr(packed, "has_tiles", lambda: tiles)
    model, tokens = model_of("bert"), texts_of([6, 4, 3, 30, 31])
    plan = plan_of(model)
    assert plan is not None
    plan = replace(plan, hidden_dropout=0.0, attention_dropout=0.0)
    weights = {
        name: p.detach().to(torch.float32 if name.startswith("embeddings.") else torch.bfloat16)
        for name, p in model.named_parameters()
    }
    with torch.no_grad():
        once = run_packed(plan, weights, tokens, is_training=True)
        at_rest = run_packed(plan, weights, tokens, is_training=False)
    again = run_packed(plan, {n: w.requires_grad_() for n, w in weights.items()}, tokens, is_training=True)
    assert torch.equal(once, again)
    assert torch.allclose(once, at_rest, atol=0.05)
    assert not torch.equal(once, at_rest)  # outside training by other ways


def test_with_dropout_the_gradient_is_that_of_the_masks_drawn():
    model, tokens = model_of("bert").train(), texts_of([6, 4, 3])
    plan, name = plan_of(model), "encoder.layer.1.attention.self.value.weight"
    assert plan is not None
    assert plan.hidden_dropout == plan.attention_dropout == 0.1
    weights = {n: p.detach() for n, p in model.named_parameters()}

    def value(weight):
        torch.manual_seed(3)
        return run_packed(plan, weights | {name: weight}, tokens, is_training=True).square().sum()

    with torch.random.fork_rng(devices=[]):
        assert torch.autograd.gradcheck(value, (weights[name].clone().requires_grad_(),), fast_mode=True)
        torch.manual_seed(3)
        assert not torch.equal(
            run_packed(plan, weights, tokens, is_training=True), run_packed(plan, weights, tokens, is_training=True)
        )


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0.001, 0.99), seed=st.integers(0, 2**62), far=st.integers(1, 5_000))
def test_dropout_keeps_each_element_with_the_probability_asked_for(rate, seed, far):
    count = 200_003
    drop = (draw(count, rate, seed) < 0).numpy()
    spread = (rate * (1 - rate) / count) ** 0.5
    assert abs(drop.mean() - rate) < 6 * spread + 0.5 / STEPS
    assert abs(1 - kept_share(rate) - rate) <= 0.5 / STEPS
    # elements do not know of each other, near or far, in this draw or another
    other = (draw(count, rate, seed + 1) < 0).numpy()
    for one, two in ((drop[:-1], drop[1:]), (drop[:-2], drop[2:]), (drop[:-far], drop[far:]), (drop, other)):
        assert abs((one & two).mean() - rate**2) < 6 * (rate / count**0.5) + rate / STEPS
    assert np.array_equal(drop, (draw(count, rate, seed) < 0).numpy())


def test_all_fifteen_bits_of_a_draw_are_even_and_no_two_go_together():
    for seed in (0, 1, 2**31, 2**61 + 12345):
        numbers = (draw(1 << 18, 0.5, seed).to(torch.int32) + STEPS // 2).numpy()
        assert numbers.min() >= 0
        assert numbers.max() < STEPS
        bits = (numbers[:, None] >> np.arange(15) & 1) - 0.5
        assert np.abs(bits.mean(axis=0)).max() < 6 * 0.5 / len(bits) ** 0.5
        together = bits.T @ bits / len(bits) * 4
        assert np.abs(together - np.eye(15)).max() < 6 / len(bits) ** 0.5
        cells = np.bincount(numbers >> 7, minlength=256)  # and its 256 intervals are as even as chance makes them
        assert 140 < ((cells - 1024) ** 2 / 1024).sum() < 400


def test_a_longer_draw_begins_with_the_shorter_one():
    assert torch.equal(draw(1_001, 0.3, 7), draw(200_000, 0.3, 7)[:1_001])
    assert draw(0, 0.3, 7).shape == (0,)


@pytest.mark.parametrize("count", [1, 13, 14, 15, 28, 1_000])
def test_a_draw_in_pieces_is_the_draw_at_once(count, monkeypatch):
    whole = draw(count, 0.3, 7)
    monkeypatch.setattr(dropout, "AT_ONCE", 7)
    assert torch.equal(draw(count, 0.3, 7), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_gives_zero_where_dropped_and_else_the_number_over_the_share_kept(dtype):
    numbers = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    drop = (draw(1200, 0.2, 5) < 0).view(40, 30)
    assert 0.1 < drop.double().mean() < 0.3
    found = keep(numbers, keep_mask(draw(1200, 0.2, 5), numbers), 0.2)
    assert found.dtype == dtype
    wanted = (numbers.double() / kept_share(0.2)).masked_fill(drop, 0.0)
    torch.testing.assert_close(found.double(), wanted, rtol={torch.bfloat16: 4e-3}.get(dtype, 1e-6), atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_marks_hold_both_the_numbers_and_what_of_them_is_kept(dtype):
    numbers = torch.rand(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    numbers[3] = 0.0
    marked = mark_dropped(numbers.clone(), 0.3, 9)
    drop = (draw(350, 0.3, 9) < 0).view(50, 7)
    assert torch.equal(unmarked(marked), numbers)
    assert torch.equal(kept_part(marked), numbers.masked_fill(drop, 0.0))


def test_groups_hold_all_texts_of_like_length_and_no_more_scores_than_the_cache():
    tokens = texts_of([256, 250, 249, 180, 60, 59, 58, 57, 12, 12, 12, 0])
    groups = group_texts(tokens, 12, torch.device("cpu"))
    assert [(g.texts, g.width) for g in groups] == [(1, 256), (1, 250), (1, 249), (1, 180), (4, 60), (3, 12)]
    assert all(g.texts == 1 or g.texts * 12 * g.width**2 <= GROUP_SCORES for g in groups)
    assert sum(g.stop - g.start for g in groups) == len(tokens.ids)


def test_what_is_no_plain_bert_is_run_by_transformers():
    other = ModernBertModel(
        ModernBertConfig(
            vocab_size=99,
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=3,
            intermediate_size=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        )
    )
    decoder = BertModel(BertConfig(vocab_size=99, is_decoder=True, **SIZES))
    tanh = BertModel(BertConfig(vocab_size=99, hidden_act="tanh", **SIZES))
    assert plan_of(other) is plan_of(decoder) is plan_of(tanh) is None


def test_bfloat16_changes_rows_little_and_gradients_arrive_in_the_float32_parameters(tmp_path):
    encoder = load_encoder(tiny_transformer(tmp_path / "m"))
    inputs = encoder.prepare(["the cat runs", "a", "one two three four five six seven eight"])
    exact = encoder(inputs)
    exact.sum().backward()
    wanted = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    with encoder.computing("bfloat16", is_training=True):
        rows = encoder(inputs)
        assert rows.dtype == torch.float32
        rows.sum().backward()
        assert 0 < float((rows - exact).detach().abs().max()) < 0.05
        assert {n for n, p in encoder.named_parameters() if p.grad is not None} == set(wanted)
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in encoder.parameters())
        with torch.no_grad():
            for p in encoder.parameters():
                p.zero_()
        copies = encoder.copies
        assert copies is not None
        copies.refresh()
        assert not any(bool(c.any()) for c in copies.tensors.values())
    assert encoder.copies is None
    with pytest.raises(BadConfig, match="float8"), encoder.computing("float8"):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_filler_within_a_text_has_the_position_and_the_gradient_it_has_in_transformers(kind):
    model = model_of(kind)
    filler = model.config.pad_token_id
    tokens = Tokens.of([[20, filler, 30, 31, filler, 32], [filler, 11], [40, 41]])
    plan = plan_of(model)
    assert plan is not None
    grads = []
    for run in (
        lambda: run_packed(plan, dict(model.named_parameters()), tokens, is_training=False),
        lambda: as_transformers_attends(model, tokens),
    ):
        model.zero_grad()
        rows = run()
        rows.square().sum().backward()
        grads.append((rows.detach(), model.embeddings.word_embeddings.weight.grad.clone()))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    torch.testing.assert_close(grads[0][1], grads[1][1])
    assert not bool(grads[0][1][filler].any())


def as_transformers_attends(model, tokens):
    """As `as_transformers_runs_it`, every token seen, fillers too."""
    parts = []
    for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids = torch.from_numpy(tokens.ids[a:b].astype(np.int64))[None]
        parts.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0])
    return torch.cat(parts)


def test_bfloat16_gradients_point_where_the_float32_ones_do(tmp_path):
    encoder = load_encoder(tiny_transformer(tmp_path / "m", dim=64)).eval()
    rng = np.random.default_rng(0)
    inputs = Tokens.of([[2, *rng.integers(5, 300, n).tolist(), 3] for n in rng.integers(1, 50, 60)])
    upstream = torch.randn(60, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for precision in ("float32", "bfloat16"):
        encoder.zero_grad()
        with encoder.computing(precision, is_training=True):
            (encoder(inputs) * upstream).sum().backward()
        found.append({n: p.grad.flatten() for n, p in encoder.named_parameters() if p.grad is not None and "key.bias" not in n})
    for name, exact in found[0].items():
        assert torch.cosine_similarity(exact, found[1][name], dim=0) > 0.99, name

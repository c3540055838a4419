"""A cached step equals one graph over the whole batch, dropout included, whatever is kept and however it is cut."""

import numpy as np
import pytest
import torch

from nearfar import losses
from nearfar.encoders import Tokens, load_encoder
from nearfar.training.caching import Side, accumulate, memory_budget, micro_batches

from tiny import WORDS, tiny_transformer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(tiny_transformer(tmp_path_factory.mktemp("m") / "t"))


def batch(encoder, n=12, seed=0):
    rng = np.random.default_rng(seed)
    text = lambda: " ".join(rng.choice(WORDS, rng.integers(1, 30)))  # noqa: E731
    return encoder.prepare([text() for _ in range(n)]), encoder.prepare([text() for _ in range(n)])


def loss(rows):
    return losses.info_nce(rows[0], rows[1], temperature=0.1).mean()


def gradients(encoder, sides, **options):
    encoder.zero_grad()
    done = accumulate(sides, loss, seed=11, **options)
    return done, {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def sides_of(encoder):
    queries, documents = batch(encoder)
    return [Side(encoder, queries, encoder.dim), Side(encoder, documents, encoder.dim)]


def test_without_dropout_it_is_the_gradient_of_the_plain_loss(encoder):
    encoder.eval()
    sides = sides_of(encoder)
    encoder.zero_grad()
    loss([encoder(s.inputs) for s in sides]).backward()
    wanted = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    for options in (
        {"keep_bytes": 0, "micro_tokens": 40},
        {"keep_bytes": 1 << 40, "micro_tokens": 25},
        {"keep_bytes": 1 << 40, "micro_tokens": 1 << 40},
    ):
        _, found = gradients(encoder, sides, **options)
        assert found.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_kept_changes_no_bit_dropout_included(encoder, precision):
    encoder.train()
    sides = sides_of(encoder)
    with encoder.computing(precision, is_training=True):
        found = [gradients(encoder, sides, keep_bytes=keep, micro_tokens=40) for keep in (0, 150_000, 1 << 40)]
    twice = [done.encoded_twice for done, _ in found]
    assert twice[0] == found[0][0].micro_batches > twice[1] > twice[2] == 0
    for done, gradient in found[1:]:
        assert done.loss == found[0][0].loss
        assert all(torch.equal(gradient[name], found[0][1][name]) for name in found[0][1])


def test_it_is_one_graph_over_the_same_micro_batches_with_the_same_dropout(encoder):
    encoder.train()
    sides = sides_of(encoder)
    _, found = gradients(encoder, sides, keep_bytes=0, micro_tokens=40)
    encoder.zero_grad()
    rows, number = [], 0
    with torch.random.fork_rng(devices=[]):
        for side in sides:
            parts = micro_batches(side.inputs, 40)
            made = []
            for part in parts:
                torch.manual_seed(11 + number)
                made.append(side.encode(side.inputs.select(part)))
                number += 1
            rows.append(torch.cat(made)[torch.from_numpy(np.argsort(np.concatenate(parts)))])
    loss(rows).backward()
    for name, p in encoder.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-7)


def test_micro_batches_hold_every_row_once_the_longest_first_within_the_tokens():
    tokens = Tokens.of([[1] * n for n in (3, 50, 7, 7, 0, 12, 9)])
    parts = micro_batches(tokens, 20)
    assert [part.tolist() for part in parts] == [[1], [5], [6, 2], [3, 0, 4]]


def test_rows_of_no_gradient_and_a_loss_that_is_not_finite_leave_the_parameters_alone(encoder):
    sides = sides_of(encoder)
    encoder.zero_grad()
    done = accumulate(sides, lambda rows: rows[0].sum() * torch.nan, seed=0)
    assert np.isnan(done.loss)
    assert all(p.grad is None for p in encoder.parameters())


def test_the_callers_generator_is_left_as_it_was(encoder):
    encoder.train()
    before = torch.random.get_rng_state()
    accumulate(sides_of(encoder), loss, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_memory_for_graphs_follows_what_is_free():
    assert 0 < memory_budget(torch.device("cpu")) < 1 << 42


def test_the_budget_counts_what_is_really_kept_and_not_the_weights(tmp_path):
    encoder = load_encoder(tiny_transformer(tmp_path / "t", dim=32)).train()
    queries, _ = batch(encoder, 40)
    seen: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        rows = encoder(queries)
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    per_token = sum(size for place, size in seen.items() if place not in weights) / int(queries.lengths.sum())
    del rows
    # a budget of so much keeps about half of equal micro-batches, the first of which tells the rate
    tokens = int(queries.lengths.sum())
    done = accumulate(
        [Side(encoder, queries, encoder.dim)],
        lambda rows: rows[0].sum(),
        seed=0,
        keep_bytes=int(per_token * tokens / 2),
        micro_tokens=max(tokens // 10, 30),
    )
    assert 0.3 < done.encoded_twice / done.micro_batches < 0.7


def test_graphs_whose_ends_nobody_reads_are_let_go(tmp_path):
    import gc
    import weakref

    from transformers import MPNetConfig, MPNetModel

    from nearfar.encoders import TransformerEncoder

    base = load_encoder(tiny_transformer(tmp_path / "t"))
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "max_position_embeddings": 70,
    }
    model = MPNetModel(MPNetConfig(vocab_size=base.tokenizer.get_vocab_size(), **sizes))
    encoder = TransformerEncoder(model, base.hf_tokenizer, max_length=32).train()
    queries, _ = batch(encoder, 6)
    ends: list[weakref.ref[torch.Tensor]] = []
    hook = model.pooler.register_forward_hook(lambda module, given, found: ends.append(weakref.ref(found)))
    accumulate([Side(encoder, queries, encoder.dim, True)], lambda rows: rows[0].square().sum(), seed=0, keep_bytes=1 << 40)
    hook.remove()
    gc.collect()
    assert ends
    assert all(end() is None for end in ends)


def test_what_is_padded_is_cut_by_rows_times_the_longest():
    tokens = Tokens.of([[1] * n for n in (30, 10, 3, 3, 3)])
    assert [part.tolist() for part in micro_batches(tokens, 60, pads=True)] == [[0, 1], [2, 3, 4]]
    assert [part.tolist() for part in micro_batches(tokens, 60)] == [[0, 1, 2, 3, 4]]

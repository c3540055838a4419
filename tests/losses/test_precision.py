"""What precision does and does not change: bfloat16 slabs sum in float32, extremes stay exact, gradients come back in the rows' dtype."""

import pytest
import torch
import torch.nn.functional as F

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.similarity import SLAB_BYTES, slab_rows
from nearfar.types import Targets

BOTH = ("query_to_candidate", "candidate_to_query")
ALL = (*BOTH, "query_to_query", "candidate_to_candidate")


def pairs(b: int = 96, extra: int = 32, d: int = 48, likeness: float = 1.0, seed: int = 0):
    a, noise, more = (
        torch.randn(count, d, generator=torch.Generator().manual_seed(seed + s)) for s, count in enumerate((b, b, extra))
    )
    a = F.normalize(a, dim=1)
    return a, torch.cat([F.normalize(likeness * a + F.normalize(noise, dim=1), dim=1), F.normalize(more, dim=1)])


def step(loss, q, c, upstream=None, **options):
    leaves = q.clone().requires_grad_(), c.clone().requires_grad_()
    rows = loss(*leaves, **options)
    return rows.detach(), *torch.autograd.grad(rows.mean() if upstream is None else (rows * upstream).sum(), leaves)


def only_pairs(loss):
    """A loss of as many candidates as queries."""
    return lambda q, c, **options: loss(q, c[: len(q)], **options)


LOSSES = {
    "info_nce": losses.info_nce,
    "clip": only_pairs(losses.clip),
    "joint": lambda q, c, **o: losses.info_nce(q, c, directions=ALL, partition="joint", **o),
    "gist": lambda q, c, **o: losses.gist(q, c, q.detach(), c.detach(), margin=0.1, **o),
    "decoupled": losses.decoupled,
    "siglip": lambda q, c, **o: losses.siglip(q, c, bias=-9.97, **o),
    "nt_xent": lambda q, c, **o: losses.nt_xent(q, c[: len(q)], **o),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_bfloat16_slabs_are_near_float32_in_value_and_gradient(name, temperature):
    q, c = pairs()
    exact = step(LOSSES[name], q, c, temperature=temperature)
    near = step(LOSSES[name], q, c, temperature=temperature, precision="bfloat16")
    # a similarity of unit rows is off by 2^-9 for each side's rounding and for its own; so is the positive's; a logit by that over the temperature
    bound = 6 * 2**-9 / temperature
    assert float((near[0] - exact[0]).abs().max()) < bound * (len(c) if name == "siglip" else 1)
    assert abs(float((near[0] - exact[0]).mean())) < bound / 4
    for a, b in zip(near[1:], exact[1:], strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < min(0.2, bound)


@pytest.mark.parametrize("loss", [losses.info_nce, only_pairs(losses.clip)], ids=["info_nce", "clip"])
def test_where_the_model_is_nearly_right_bfloat16_keeps_the_size_of_the_pull(loss):
    """The positive's pull is p - 1: rounded to bfloat16, p would be 1 and the pull nothing, or 0.004."""
    q, c = pairs(likeness=4.0)
    exact, near = (step(loss, q, c, temperature=0.05, precision=p) for p in ("float32", "bfloat16"))
    assert float(exact[0].mean()) < 1e-3
    torch.testing.assert_close(near[0], exact[0], rtol=0.2, atol=4e-6)  # clip subtracts a logit of 19
    for a, b in zip(near[1:], exact[1:], strict=True):
        assert float((a - b).norm() / b.norm()) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_rows_give_float32_losses_and_gradients_of_their_dtype(name, dtype):
    q, c = (rows.to(dtype) for rows in pairs())
    rows, *gradients = step(LOSSES[name], q, c, temperature=0.05)
    exact, *_ = step(LOSSES[name], q.float(), c.float(), temperature=0.05)
    assert rows.dtype == torch.float32
    assert float((rows - exact).abs().max()) < (0.2 if dtype == torch.bfloat16 else 0.02) * (len(c) if name == "siglip" else 1)
    assert all(g.dtype == dtype and bool(torch.isfinite(g).all()) for g in gradients)


def test_autocast_multiplies_in_bfloat16_and_an_explicit_precision_has_the_last_word():
    q, c = pairs()
    plain, narrow = losses.info_nce(q, c), losses.info_nce(q, c, precision="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, told = losses.info_nce(q, c), losses.info_nce(q, c, precision="float32")
    torch.testing.assert_close(inside, narrow, rtol=0, atol=0)
    torch.testing.assert_close(told, plain, rtol=0, atol=0)
    assert not torch.equal(plain, narrow)


@pytest.mark.parametrize("length", [1.0, 30.0])
@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.3])
@pytest.mark.parametrize("directions", [BOTH[:1], BOTH, ALL])
@pytest.mark.parametrize("likeness", [-1.0, 0.0, 3.0])
def test_in_float32_extremes_equal_double_precision(length, temperature, directions, likeness):
    """Logits thousands of nats apart: sums that would overflow or vanish about the positive are taken about a maximum."""
    q, c = pairs(12, 5, 8, likeness)
    q, c = q * length, c * length
    upstream = torch.rand(12, generator=torch.Generator().manual_seed(5))
    options = {"temperature": temperature, "directions": directions, "rows_per_slab": 5}
    found = step(losses.info_nce, q, c, upstream, **options)
    exact = step(losses.info_nce, q.double(), c.double(), upstream.double(), **options)
    scale = length * length / temperature  # of a logit: its rounding error is this times 2^-23
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=scale * 2**-20)
    for a, b in zip(found[1:], exact[1:], strict=True):
        assert bool(torch.isfinite(a).all())
        assert float((a.double() - b).abs().max()) <= (1e-5 + scale * 2**-20) * float(b.abs().max() + length / temperature)


def test_a_negative_far_above_its_positive_is_not_an_overflow():
    q = torch.eye(4) * 40
    rows, grad_q, grad_c = step(losses.info_nce, q, -q.roll(1, 0) + q.roll(2, 0), temperature=1.0)
    assert torch.isfinite(rows).all()
    assert torch.isfinite(grad_q).all()
    assert torch.isfinite(grad_c).all()
    dense = F.cross_entropy(q @ (-q.roll(1, 0) + q.roll(2, 0)).T, torch.arange(4), reduction="none")
    torch.testing.assert_close(rows, dense)


def test_own_negatives_count_for_their_row_alone():
    q, c = pairs(4, 4, 8)
    owners = torch.tensor([-1, -1, -1, -1, 0, 1, 2, 3])
    found = losses.info_nce(q, c, Targets(column_owners=owners), temperature=0.3)
    logits = q @ c.T / 0.3
    for i in range(4):
        kept = [*range(4), 4 + i]
        torch.testing.assert_close(found[i], logits[i, kept].logsumexp(0) - logits[i, i])


def test_ragged_hard_negatives_belong_to_their_rows_or_to_everyone():
    q, c = pairs(3, 3, 8)
    owners = torch.tensor([-1, -1, -1, 1, 1, 2])  # none, two and one
    found = losses.info_nce(q, c, Targets(column_owners=owners), temperature=0.3)
    logits = q @ c.T / 0.3
    for i, kept in enumerate([[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 5]]):
        torch.testing.assert_close(found[i], logits[i, kept].logsumexp(0) - logits[i, i])


def test_one_temperature_per_row_is_that_rows_own():
    q, c = pairs(5, 2, 8)
    each = torch.linspace(0.05, 0.5, 5).requires_grad_()
    rows = losses.info_nce(q, c, temperature=each)
    torch.testing.assert_close(
        rows.detach(), torch.stack([losses.info_nce(q, c, temperature=t)[i] for i, t in enumerate(each.tolist())])
    )
    (slope,) = torch.autograd.grad(rows.sum(), each)
    assert bool((slope != 0).all())
    with pytest.raises(BadInput, match="temperature: row 1 has -1"):
        losses.info_nce(q, c, temperature=torch.tensor([1.0, -1, 1, 1, 1]))
    with pytest.raises(BadInput, match=r"one per row \(5\)"):
        losses.info_nce(q, c, temperature=torch.ones(4))


def test_on_a_gpu_a_slab_follows_what_is_free_there(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800 << 20, 80 << 30))
    assert slab_rows(65_536, device=cuda) == (100 << 20) // (65_536 * 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 << 30, 80 << 30))
    assert slab_rows(65_536, device=cuda) == (1 << 30) // (65_536 * 4)
    assert slab_rows(1_024, device=cuda) == 8192
    assert slab_rows(65_536, device=torch.device("cpu")) == SLAB_BYTES // (65_536 * 4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda q, c: losses.info_nce(q, c, precision="float8"), "precision: found 'float8'"),
        (lambda q, c: losses.info_nce(q, c, memory=torch.ones(3, 5)), "memory: rows of 5 dimensions"),
        (lambda q, c: losses.info_nce(q, c, memory=torch.full((3, 48), torch.nan)), "memory: row 0 holds NaN"),
        (lambda q, c: losses.info_nce(q, c, memory=q, directions=BOTH), "serves query_to_candidate alone"),
        (
            lambda q, c: losses.info_nce(q, c, Targets(column_owners=torch.zeros(3).long())),
            "targets.column_owners: expected 128",
        ),
        (lambda q, c: losses.info_nce(q, c, Targets(column_items=torch.zeros(128).int())), "int64 ids, found .* torch.int32"),
        (lambda q, c: losses.info_nce(q, c, weights=torch.ones(96).requires_grad_()), "weights: row weights must not need"),
    ],
)
def test_what_cannot_be_is_refused(call, says):
    with pytest.raises(BadInput, match=says):
        call(*pairs())

"""Losses of pairs, triplets, graded pairs, guides and teachers: equal to the loops, and to the peers' golden values."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput

import reference

SEEDS, SLABS = st.integers(0, 2**32), st.integers(1, 12)
DISTANCES = st.sampled_from(["euclidean", "squared_euclidean", "cosine"])


def rows(count, d, seed, unit=True):
    found = torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(found, dim=1) if unit else found


def both(fast, slow, *inputs, weights=None):
    """Values and gradients of both, compared."""

    def run(loss):
        leaves = [x.clone().requires_grad_() for x in inputs]
        found = loss(*leaves)
        upstream = torch.ones_like(found) if weights is None else weights
        return (found.detach(), *torch.autograd.grad((found * upstream).sum(), leaves, allow_unused=True))

    for a, b in zip(run(fast), run(slow), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def golden(n, d, a):
    i, j = torch.meshgrid(torch.arange(n, dtype=torch.float64), torch.arange(d, dtype=torch.float64), indexing="ij")
    return torch.sin(a + 1.3 * i + 0.7 * j * torch.sqrt(i + 1))


Q, P, N = (golden(4, 6, a) for a in (0.1, 0.4, 2.0))
SIMILAR, SCORES = torch.tensor([1, 0, 1, 0]), torch.tensor([0.9, 0.1, 0.6, 0.6], dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, distance=DISTANCES, margin=st.floats(0, 3), similar=st.lists(st.booleans(), min_size=6, max_size=6))
def test_contrastive_equals_the_loops(seed, distance, margin, similar):
    a, b = rows(6, 3, seed, unit=False), rows(6, 3, seed + 1, unit=False)
    both(
        lambda a, b: losses.contrastive(a, b, torch.tensor(similar), margin=margin, distance=distance),
        lambda a, b: reference.contrastive(a, b, similar, margin=margin, kind=distance),
        a,
        b,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    distance=DISTANCES,
    margin=st.none() | st.floats(0, 2),
    mining=st.sampled_from(["all", "hardest", "semi_hard"]),
    slab=SLABS,
)
def test_triplets_found_in_the_batch_equal_explicit_lists(seed, distance, margin, mining, slab):
    labels = torch.randint(0, 3, (9,), generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(labels)
    assume(bool((counts != 1).all()) and int((counts > 0).sum()) > 1)
    z = rows(9, 4, seed, unit=False)
    both(
        lambda z: losses.batch_triplet(z, labels, margin=margin, mining=mining, distance=distance, rows_per_slab=slab),
        lambda z: reference.batch_triplet(z, labels, margin=margin, mining=mining, kind=distance),
        z,
        weights=torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
    )


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 12), grades=st.integers(2, 4), temperature=st.floats(0.05, 1))
def test_cosent_equals_the_double_sum_with_ties_left_out(seed, count, grades, temperature):
    scores = torch.randint(0, grades, (count,), generator=torch.Generator().manual_seed(seed)).double()
    assume(bool((scores != scores[0]).any()))
    a, b = rows(count, 5, seed), rows(count, 5, seed + 1)
    both(
        lambda a, b: losses.cosent(a, b, scores, temperature=temperature),
        lambda a, b: reference.in_order(
            (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1), scores, temperature=temperature
        ),
        a,
        b,
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 10), temperature=st.floats(0.05, 1), slab=SLABS)
def test_pairwise_logistic_and_list_mle_equal_the_loops(seed, count, temperature, slab):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 3, (count,), generator=generator).double()
    a, b = rows(count, 5, seed), rows(count, 5, seed + 1)
    if bool((scores != scores[0]).any()):
        both(
            lambda a, b: losses.pairwise_logistic(a, b, scores, temperature=temperature, rows_per_slab=slab),
            lambda a, b: reference.pairwise_logistic(
                (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1), scores, temperature=temperature
            ),
            a,
            b,
        )
    teacher = torch.randint(0, 4, (count, 4), generator=generator).double()
    candidates = rows(count * 4, 5, seed + 2).reshape(count, 4, 5)
    both(
        lambda q, c: losses.list_mle(q, c, teacher, temperature=temperature),
        lambda q, c: reference.list_mle(q, c, teacher, temperature=temperature),
        a,
        candidates,
    )


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, extra=st.integers(0, 4), margin=st.floats(-0.2, 0.4), relative=st.booleans(), slab=SLABS)
def test_gist_equals_the_loops_and_the_guide_gets_no_gradient(seed, extra, margin, relative, slab):
    q, c = rows(6, 4, seed), rows(6 + extra, 4, seed + 1)
    gq, gc = rows(6, 3, seed + 2), rows(6 + extra, 3, seed + 3)
    both(
        lambda q, c: losses.gist(q, c, gq, gc, temperature=0.2, margin=margin, relative=relative, rows_per_slab=slab),
        lambda q, c: reference.gist(q, c, gq, gc, temperature=0.2, margin=margin, relative=relative),
        q,
        c,
        weights=torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (lambda: losses.contrastive(Q, P, SIMILAR, margin=0.5, distance="cosine").mean(), 0.0537055995),
        (lambda: losses.triplet(Q, P, N, margin=5.0, distance="euclidean").mean(), 2.7327527542),
        (lambda: losses.cosent(Q, P, SCORES, temperature=0.05), 1.9390206193),
        (lambda: losses.angle(Q, P, SCORES, temperature=0.05), 5.6704845644),
    ],
)
def test_the_peers_golden_values(found, value):
    assert float(found()) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hardest"])
def test_a_slab_of_triplets_never_lists_them(mining):
    """The largest tensor made is a slab, whatever the number of triplets."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                Largest.numbers = max(Largest.numbers, found.numel())
            return found

    labels = torch.arange(512) % 64
    z = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with Largest():
        losses.batch_triplet(z, labels, mining=mining, margin=0.3, rows_per_slab=16).mean().backward()
    assert Largest.numbers <= 16 * (512 + 1)  # a slab, and its prefix sums


def test_rows_at_distance_zero_have_finite_gradients():
    z = torch.ones(4, 3, requires_grad=True)
    losses.batch_triplet(z, torch.tensor([0, 0, 1, 1]), margin=0.5).sum().backward()
    assert torch.isfinite(z.grad).all()
    a = torch.ones(2, 3, requires_grad=True)
    losses.contrastive(a, torch.ones(2, 3), torch.tensor([True, False]), distance="euclidean").sum().backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: losses.contrastive(Q, P, torch.tensor([0.5, 1, 0, 1])), "similar"),
        (lambda: losses.contrastive(Q, P, SIMILAR, distance="manhattan"), "distance"),
        (lambda: losses.contrastive(Q, P[:, :3], SIMILAR), "dimensions"),
        (lambda: losses.triplet(Q, P, N * float("nan")), "row 0"),
        (lambda: losses.cosine_regression(Q * 0, P, SCORES), "zeros"),
        (lambda: losses.cosent(Q, P, torch.ones(4)), "all 4 are equal"),
        (lambda: losses.cosent(Q, P, SCORES, temperature=0), "temperature"),
        (lambda: losses.pairwise_logistic(Q, P, torch.ones(4)), "all 4 are equal"),
        (lambda: losses.list_mle(Q, torch.stack([P, N], dim=1), torch.ones(3, 2)), "teacher_scores"),
        (lambda: losses.batch_triplet(Q, torch.tensor([0, 0, 0, 1])), "row 3 has no positive"),
        (lambda: losses.batch_triplet(Q, torch.tensor([0, 0, 0, 0])), "none has a negative"),
        (lambda: losses.batch_triplet(Q, torch.tensor([0, 0, 1, 1]), mining="easy"), "mining"),
        (lambda: losses.gist(Q, P, Q[:3], P), "guide"),
        (lambda: losses.gist(Q, P, Q, P, contrast=()), "contrast"),
        (lambda: losses.margin_mse(Q, P, N, SCORES[:2]), "teacher_margin"),
        (lambda: losses.score_kl(Q, torch.stack([P, N], dim=1), torch.ones(4, 3)), "teacher_scores"),
        (lambda: losses.embedding_mse(Q, P[:, :3]), "teacher_rows"),
    ],
)
def test_what_cannot_be_is_refused_naming_the_argument(call, says):
    with pytest.raises(BadInput, match=says):
        call()

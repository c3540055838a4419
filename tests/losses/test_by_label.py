"""Losses over labels: drawn triplets, thresholds by the positive, memories, and labels that are none."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.losses import labels as by_label

import reference
from problems import Problem, gradients, has_lonely_row, problems


def rows(count, d, seed=0):
    return F.normalize(torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def drawn(z, labels, seed, **options):
    leaf = z.clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    found = losses.batch_triplet(leaf, labels, mining="distance_weighted", generator=generator, margin=0.5, **options)
    return found.detach(), *torch.autograd.grad((found * torch.linspace(0.1, 1, len(z))).sum(), leaf)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), slab=st.integers(1, 13), distance=st.sampled_from(["euclidean", "squared_euclidean", "cosine"])
)
def test_drawn_negatives_are_the_same_at_any_slab_size_and_for_any_distance_of_unit_rows(seed, slab, distance):
    labels = torch.arange(13) % 4
    z = rows(13, 8, seed)
    for a, b in zip(
        drawn(z, labels, 3, distance=distance), drawn(z, labels, 3, distance=distance, rows_per_slab=slab), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_negatives_are_drawn_by_the_inverse_density_of_their_distances():
    """Many draws of one anchor: the shares are those of Wu 2017, eq. 4, written out."""
    d, positives = 4, 20_000
    negatives = rows(6, d, 1)
    anchor = rows(1, d, 2)
    negatives[5] = -anchor[0]  # beyond the farthest that is drawn
    apart = (negatives - anchor).norm(dim=1)
    weights = [
        0.0 if x > 1.4 else 1 / (max(x, 0.5) ** (d - 2) * (1 - max(x, 0.5) ** 2 / 4) ** ((d - 3) / 2)) for x in apart.tolist()
    ]
    from nearfar.losses.triplets import _drawn

    found = _drawn(apart[None], "euclidean", positives, torch.tensor([0]), 7, d)[0]
    for x, weight in zip(apart, weights, strict=True):
        assert float((found == x).double().mean()) == pytest.approx(weight / sum(weights), abs=0.02)


def test_all_negatives_beyond_the_farthest_are_drawn_from_all_the_same():
    z = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.01, 0.0], [-1.0, 0.0, 0.0], [-1.0, 0.01, 0.0]], dtype=torch.float64)
    found, gradient = drawn(z, torch.tensor([0, 0, 1, 1]), 0)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()


@settings(max_examples=60, deadline=None)
@given(problem=problems(), slab=st.integers(1, 12), by=st.sampled_from([(0.95, None), (0.5, None), (None, 0.1), (None, 0.0)]))
def test_positive_aware_equals_the_loops(problem: Problem, slab, by):
    assume(not has_lonely_row(problem))
    share, margin = by
    found = gradients(losses.positive_aware, problem, share=share, margin=margin, rows_per_slab=slab)
    expected = gradients(reference.positive_aware, problem, share=share, margin=margin)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_a_row_all_of_whose_negatives_are_nearer_than_its_positive_has_loss_zero():
    alone = losses.positive_aware(torch.eye(2), torch.tensor([[0.1, 1.0], [1.0, 0.1]]))
    torch.testing.assert_close(alone, torch.zeros(2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), slab=st.integers(1, 12), form=st.sampled_from(["out", "in"]))
def test_a_memory_of_labelled_rows_counts_as_rows_of_the_batch_without_gradient(seed, slab, form):
    generator = torch.Generator().manual_seed(seed)
    labels, past = torch.randint(0, 3, (6,), generator=generator), torch.randint(0, 3, (5,), generator=generator)
    together = torch.cat([labels, past])
    assume(bool((torch.bincount(together)[labels] > 1).all()))
    z, memory = rows(6, 4, seed), rows(5, 4, seed + 1)

    def grad(loss):
        leaf = z.clone().requires_grad_()
        found = loss(leaf)
        return found.detach(), *torch.autograd.grad(found.sum(), leaf)

    here = grad(
        lambda z: losses.sup_con(z, labels, temperature=0.2, form=form, memory=memory, memory_labels=past, rows_per_slab=slab)
    )
    if bool((torch.bincount(together) == 1).any()):
        return
    there = grad(lambda z: reference.sup_con(torch.cat([z, memory]), together, temperature=0.2, form=form)[:6])
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hardest"])
def test_triplets_of_a_few_large_classes_equal_the_loops(mining):
    labels = torch.arange(40) % 2
    z = rows(40, 5, 3)
    for margin in (0.3, None):
        found = losses.batch_triplet(z, labels, margin=margin, mining=mining, rows_per_slab=7)
        torch.testing.assert_close(found, reference.batch_triplet(z, labels, margin=margin, mining=mining, kind="euclidean"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.uint64])
def test_labels_are_any_integers(dtype):
    z, labels = rows(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(losses.sup_con(z, labels.to(dtype)), losses.sup_con(z, labels))


BEYOND = torch.tensor([1, 1, 2**63 + 5, 2**63 + 5], dtype=torch.uint64)
Z = rows(4, 3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: losses.sup_con(Z, BEYOND), "row 2 is 9223372036854775813, beyond int64"),
        (lambda: losses.sup_con(Z, torch.tensor([0.0, 0, 1, 1])), "expected integers, found torch.float32"),
        (lambda: losses.batch_triplet(Z, torch.tensor([True, True, False, False])), "expected integers, found torch.bool"),
        (lambda: losses.batch_triplet(Z, torch.tensor([0, 0, 1, 1]), mining="distance_weighted"), "Pass a torch.Generator"),
        (lambda: losses.sup_con(Z, torch.tensor([0, 0, 1, 1]), memory=Z), "memory_labels: expected beside"),
        (lambda: losses.sup_con(Z, torch.tensor([0, 0, 1, 1]), memory=Z, memory_labels=torch.zeros(3).long()), "memory_labels"),
        (lambda: losses.sup_con(Z, torch.tensor([0, 0, 1, 1]), rows_per_slab=0), "rows_per_slab"),
        (lambda: losses.positive_aware(Z, Z, share=1.5), "share"),
        (lambda: losses.positive_aware(Z, Z, share=None), "share, margin"),
        (lambda: losses.softmax_classes(Z, Z, torch.tensor([0, 1, 2, -1])), "row 3 has the class -1"),
    ],
)
def test_what_cannot_be_is_refused(call, says):
    with pytest.raises(BadInput, match=says):
        call()


def test_the_table_of_labels_is_no_larger_than_the_batch_and_its_largest_class():
    table = by_label._Labels.of(torch.arange(64) % 16, None, needs_negative=True)
    assert table.pairs(0, 8).members.shape == (8, 4)
    assert math.prod(table.order.shape) == 64


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    slab=st.integers(1, 11),
    case=st.sampled_from(
        [
            ("circle", losses.circle, {"margin": 0.25, "temperature": 0.1}),
            ("multi_similarity", losses.multi_similarity, {"positive_scale": 2.0, "negative_scale": 20.0, "base": 0.3}),
            ("lifted_structure", losses.lifted_structure, {"margin": 1.5}),
        ]
    ),
)
def test_losses_that_weigh_by_hardness_equal_the_loops(seed, slab, case):
    kind, loss, options = case
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (9,), generator=generator)
    counts = torch.bincount(labels)
    assume(bool((counts != 1).all()) and int((counts > 0).sum()) > 1)
    z = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    upstream = torch.rand(9, generator=generator, dtype=torch.float64)

    def run(call):
        leaf = z.clone().requires_grad_()
        found = call(leaf)
        return found.detach(), *torch.autograd.grad((found * upstream).sum(), leaf)

    here = run(lambda z: loss(z, labels, rows_per_slab=slab, **options))
    for a, b in zip(here, run(lambda z: reference.by_hardness(z, labels, kind=kind, **options)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)

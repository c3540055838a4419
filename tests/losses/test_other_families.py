"""Prototypes, losses without negatives, and losses of losses: equal to the loops, and to the peers where they mean the same."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.types import Targets

import reference

SEEDS, SLABS = st.integers(0, 2**32), st.integers(1, 9)


def rows(count, d, seed, unit=True):
    found = torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(found, dim=1) if unit else found


def both(fast, slow, *inputs, tolerance=1e-7):
    found = []
    for loss in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = loss(*leaves)
        upstream = torch.linspace(0.5, 1.5, max(value.numel(), 1), dtype=torch.float64).reshape(value.shape)
        found.append((value.detach(), *torch.autograd.grad((value * upstream).sum(), leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, slab=SLABS, margin=st.floats(0, 0.4), temperature=st.floats(0.05, 1))
def test_classes_with_margins_equal_the_loops(seed, slab, margin, temperature):
    z, prototypes = rows(7, 4, seed, unit=False), rows(5, 4, seed + 1, unit=False)
    labels = torch.randint(0, 5, (7,), generator=torch.Generator().manual_seed(seed))
    for kind, loss, options in (
        ("cos", losses.cos_face, {"margin": margin}),
        ("proxy", losses.proxy_nca, {}),
    ):
        both(
            lambda z, p, loss=loss, o=options: loss(z, p, labels, temperature=temperature, rows_per_slab=slab, **o),
            lambda z, p, kind=kind: reference.margin_classes(z, p, labels, margin=margin, temperature=temperature, kind=kind),
            z,
            prototypes,
        )
    cosines = (F.normalize(z, dim=1) * F.normalize(prototypes[labels], dim=1)).sum(1)
    if bool((cosines > math.cos(math.pi - margin) + 1e-3).all()) and bool((cosines < 0.999).all()):
        both(
            lambda z, p: losses.arc_face(z, p, labels, margin=margin, temperature=temperature, rows_per_slab=slab),
            lambda z, p: reference.margin_classes(z, p, labels, margin=margin, temperature=temperature, kind="arc"),
            z,
            prototypes,
        )
    both(
        lambda z, p: losses.softmax_classes(z, p, labels, temperature=temperature, rows_per_slab=slab),
        lambda z, p: F.cross_entropy(z @ p.T / temperature, labels, reduction="none"),
        z,
        prototypes,
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, slab=SLABS)
def test_losses_without_negatives_equal_the_loops(seed, slab):
    a, b = rows(6, 4, seed, unit=False), rows(6, 4, seed + 1, unit=False)
    both(losses.vicreg, reference.vicreg, a, b)
    both(
        lambda a, b: losses.barlow_twins(a, b, redundancy=0.02),
        lambda a, b: reference.barlow_twins(a, b, redundancy=0.02),
        a,
        b,
    )
    z = rows(6, 4, seed)
    # the loops differentiate the distance off the sphere too: compare through the normalization
    both(
        lambda z: losses.uniformity(F.normalize(z, dim=1), sharpness=1.5, rows_per_slab=slab),
        lambda z: reference.uniformity(F.normalize(z, dim=1), sharpness=1.5),
        z,
    )
    both(lambda a, b: losses.alignment(a, b), lambda a, b: torch.stack([((x - y) ** 2).sum() for x, y in zip(a, b)]), a, b)  # noqa: B905


def test_collapse_is_uniformity_zero_and_spread_is_below():
    assert float(losses.uniformity(torch.ones(5, 4) / 2)) == pytest.approx(0, abs=1e-6)
    assert float(losses.uniformity(torch.eye(4))) == pytest.approx(-4)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_symmetric_info_nce_is_clip_also_with_groups_and_items(seed):
    a, b = rows(6, 4, seed), rows(6, 4, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    groups = torch.cat([torch.randint(-1, 4, (4,), generator=generator), torch.tensor([7, 8])])
    targets = Targets(row_groups=groups, column_groups=groups)
    both(
        lambda a, b: losses.symmetric(losses.info_nce)(a, b, targets),
        lambda a, b: losses.clip(a, b, targets, temperature=0.05),
        a,
        b,
    )


def test_a_weighted_sum_and_nested_dimensions_are_what_they_say():
    q, c = rows(5, 8, 0), rows(7, 8, 1)
    total = losses.weighted([(0.5, losses.info_nce), (2.0, losses.decoupled)])(q, c)
    torch.testing.assert_close(total, 0.5 * losses.info_nce(q, c) + 2 * losses.decoupled(q, c))
    nested = losses.matryoshka(losses.info_nce, [8, 4, 2], [1.0, 0.5, 0.25])(q, c)
    expected = sum(
        w * losses.info_nce(F.normalize(q[:, :k], dim=1), F.normalize(c[:, :k], dim=1))
        for k, w in ((8, 1), (4, 0.5), (2, 0.25))
    )
    torch.testing.assert_close(nested, expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: losses.cos_face(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3])), "row 2 has the class 3"),
        (lambda: losses.arc_face(torch.eye(3), torch.eye(3), torch.tensor([0.0, 1, 2])), "labels"),
        (lambda: losses.vicreg(torch.eye(3), torch.eye(4)), "dimensions"),
        (lambda: losses.vicreg(torch.eye(3)[:1], torch.eye(3)[:1]), "2 rows or more"),
        (lambda: losses.barlow_twins(torch.ones(3, 2), torch.ones(3, 2)), "dimension 0"),
        (lambda: losses.uniformity(torch.ones(1, 2)), "at least 2"),
        (lambda: losses.weighted([]), "no loss"),
        (lambda: losses.matryoshka(losses.info_nce, []), "dims"),
        (lambda: losses.matryoshka(losses.info_nce, [9])(torch.eye(3), torch.eye(3)), "9 asked for"),
        (lambda: losses.symmetric(losses.info_nce)(torch.eye(3), torch.eye(3)[:2]), "one per query"),
    ],
)
def test_what_cannot_be_is_refused_naming_the_argument(call, says):
    with pytest.raises(BadInput, match=says):
        call()

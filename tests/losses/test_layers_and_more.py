"""Layers, the batch's hardest negative, spread, tension, classes of pairs, teachers: equal to the loops, finite, and refusing what cannot be."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.types import Targets

import reference
from problems import Problem, has_lonely_row, problems

SEEDS = st.integers(0, 2**32)
SLABS = st.integers(1, 12)


def rows(count, d, seed):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equal(fast, slow, *inputs):
    """Values, and every gradient under unequal upstream weights."""
    found = []
    for loss in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = loss(*leaves)
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).reshape(value.shape)
        found.append((value.detach(), *torch.autograd.grad((value * upstream).sum(), leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, check_dtype=False)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), slab=SLABS, margin=st.floats(-0.5, 1.5), other=st.floats(-1, 1))
def test_the_hardest_negative_alone_equals_the_loops_at_any_slab_size(problem: Problem, slab, margin, other):
    assume(not has_lonely_row(problem))
    q, c, targets = problem.queries * 1.3, problem.candidates * 0.7, problem.targets
    # in one dimension every negative is as near as another, and gradients of ties are anyone's
    assume(q.shape[1] > 1)
    equal(
        lambda q, c: losses.hardest_negative(q, c, targets, margin=margin, rows_per_slab=slab),
        lambda q, c: reference.hardest(q, c, targets, margins=(margin,)),
        q,
        c,
    )
    equal(
        lambda q, c: losses.mega_batch_margin(
            q, c, targets, positive_margin=margin, negative_margin=other, rows_per_slab=slab, weights=problem.weights
        ),
        lambda q, c: (
            reference.hardest(q, c, targets, margins=(margin, other)) * (1 if problem.weights is None else problem.weights)
        ),
        q,
        c,
    )


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_temperature_times_info_nce_goes_to_the_hardest_negative_without_margin(seed):
    q, c = F.normalize(rows(6, 4, seed), dim=1), F.normalize(rows(8, 4, seed + 1), dim=1)
    limit = 1e-5
    torch.testing.assert_close(
        limit * losses.info_nce(q, c, temperature=limit), losses.hardest_negative(q, c, margin=0.0), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, depth=st.integers(1, 4), own=st.booleans(), slab=SLABS)
def test_layerwise_is_the_weighted_sum_over_layers_and_composes_with_matryoshka(seed, depth, own, slab):
    q, c = [rows(5, 6, seed + k) for k in range(depth)], [rows(7, 6, seed + 9 + k) for k in range(depth)]
    factors = torch.rand(depth, generator=torch.Generator().manual_seed(seed)).tolist() if own else None
    expected = factors or [*[1 / max(depth - 1, 1)] * (depth - 1), 1.0]
    targets = Targets(positive=torch.tensor([6, 0, 2, 3, 1]))

    def one(q, c, targets):
        return losses.info_nce(q, c, targets, temperature=0.5, rows_per_slab=slab)

    nest = losses.matryoshka(one, (6, 2))
    equal(
        lambda *r: losses.layerwise(nest, factors)(r[:depth], r[depth:], targets),
        lambda *r: sum(f * nest(a, b, targets) for f, a, b in zip(expected, r[:depth], r[depth:], strict=True)),
        *q,
        *c,
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, depth=st.integers(2, 4), temperature=st.floats(0.05, 2))
def test_the_last_layer_teaches_the_others_as_the_loops_say_and_learns_nothing_itself(seed, depth, temperature):
    layers, knob = [rows(4, 5, seed + k) for k in range(depth)], torch.tensor(temperature, dtype=torch.float64)
    last = layers[-1]
    equal(
        lambda *x: losses.layer_kl([*x[:-1], last], temperature=x[-1]),
        lambda *x: reference.layer_kl([*x[:-1], last], temperature=x[-1]),
        *layers[:-1],
        knob,
    )
    leaf = last.clone().requires_grad_()
    value = losses.layer_kl([layers[0].requires_grad_(), leaf], temperature=temperature)
    assert torch.autograd.grad(value.sum(), leaf, allow_unused=True) == (None,)
    torch.testing.assert_close(losses.layer_kl([last, last], temperature=temperature), torch.zeros(4, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 9), d=st.integers(2, 5))
def test_global_orthogonal_equals_the_loops_over_pairs(seed, count, d):
    z = rows(count, d, seed)
    loops = reference.global_orthogonal(z)
    assume(bool(torch.isfinite(loops)))
    equal(losses.global_orthogonal, reference.global_orthogonal, z)


def test_orthogonal_rows_are_spread_and_equal_rows_cost_one_and_the_excess():
    assert float(losses.global_orthogonal(torch.eye(4))) == pytest.approx(0, abs=1e-12)
    assert float(losses.global_orthogonal(torch.ones(5, 4))) == pytest.approx(1 + 1 - 1 / 4)


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    similar=st.lists(st.booleans(), min_size=5, max_size=5),
    features=st.lists(st.sampled_from(["rows", "difference", "product"]), min_size=1, max_size=3, unique=True),
)
def test_tension_and_classes_of_pairs_equal_the_loops(seed, similar, features):
    a, b = rows(5, 3, seed), rows(5, 3, seed + 1)
    equal(
        lambda a, b: losses.contrastive_tension(a, b, torch.tensor(similar)),
        lambda a, b: reference.contrastive_tension(a, b, similar),
        a,
        b,
    )
    width = sum(6 if name == "rows" else 3 for name in features)
    labels = torch.randint(0, 4, (5,), generator=torch.Generator().manual_seed(seed))
    equal(
        lambda a, b, w, bias: losses.pair_classes(a, b, labels, w, bias, features=tuple(features)),
        lambda a, b, w, bias: reference.pair_classes(a, b, labels, w, bias, features=tuple(features)),
        a,
        b,
        rows(4, width, seed + 2),
        rows(1, 4, seed + 3)[0],
    )


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, k=st.integers(2, 4), temperature=st.floats(0.2, 3), teacher=st.none() | st.floats(0.2, 3))
def test_a_teachers_scores_equal_the_loops_with_temperatures_that_learn(seed, k, temperature, teacher):
    q, c = rows(5, 3, seed), rows(5 * k, 3, seed + 1).reshape(5, k, 3)
    scores, knob = rows(5, k, seed + 2), torch.tensor(temperature, dtype=torch.float64)
    equal(
        lambda q, c, t: losses.score_kl(q, c, scores, temperature=t, teacher_temperature=teacher),
        lambda q, c, t: reference.score_kl(q, c, scores, temperature=t, teacher_temperature=t if teacher is None else teacher),
        q,
        c,
        knob,
    )
    equal(
        lambda q, c, t: losses.list_mle(q, c, scores, temperature=t),
        lambda q, c, t: reference.list_mle(q, c, scores, temperature=t),
        q,
        c,
        knob,
    )


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "cosine"])
def test_the_distance_to_a_teacher_is_that_of_the_loops_and_the_teacher_learns_nothing(distance):
    z, teacher = rows(4, 3, 0), rows(4, 3, 1).requires_grad_()
    equal(
        lambda z: losses.embedding_distance(z, teacher, distance=distance),
        lambda z: torch.stack([reference.distance(x, y.detach(), distance) for x, y in zip(z, teacher, strict=True)]),
        z,
    )
    torch.testing.assert_close(losses.embedding_mse(z, teacher.detach()), ((z - teacher) ** 2).mean(dim=1).detach())


def test_far_beyond_any_margin_values_and_gradients_stay_finite():
    a = (torch.ones(4, 3) * 1e4).requires_grad_()
    b = torch.full((4, 3), -1e4, requires_grad=True)
    same = torch.tensor([True, False, True, False])
    total = losses.contrastive_tension(a, b, same).sum() + losses.layer_kl([a, b]).sum() + losses.global_orthogonal(a)
    total = total + losses.hardest_negative(a, b).sum() + losses.embedding_distance(a, a, distance="euclidean").sum()
    (total + losses.alignment(a, a, power=1.0).sum()).backward()
    assert bool(torch.isfinite(total))
    assert bool(torch.isfinite(a.grad).all())
    assert bool(torch.isfinite(b.grad).all())


Q, P = rows(4, 6, 0), rows(4, 6, 1)
BAD = Q.clone()
BAD[2, 1] = float("nan")
EMPTY = Q.clone()
EMPTY[3] = 0
THREE = torch.stack([P, Q + P], dim=1)
GRADES, SAME = torch.tensor([0.9, 0.1, 0.5, 0.5]), torch.tensor([True, False, True, False])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: losses.hardest_negative(Q[:1], P[:1]), "row 0 has no negative"),
        (lambda: losses.hardest_negative(BAD, P), "queries: row 2 holds NaN"),
        (lambda: losses.hardest_negative(EMPTY, P), "row 3 is all zeros"),
        (lambda: losses.hardest_negative(Q, P, margin=float("inf")), "margin"),
        (lambda: losses.mega_batch_margin(Q, P, rows_per_slab=0), "rows_per_slab"),
        (lambda: losses.mega_batch_margin(Q, P.float()), "float32"),
        (lambda: losses.mega_batch_margin(Q, P, negative_margin=float("nan")), "negative_margin"),
        (lambda: losses.layerwise(losses.info_nce)([Q, Q], [P]), "1 layers beside 2"),
        (lambda: losses.layerwise(losses.info_nce, [1.0])([Q, Q], [P, P]), "factors: found 1 for 2"),
        (lambda: losses.layer_kl([Q]), "at least 2"),
        (lambda: losses.layer_kl([Q, P[:, :3]]), "layers\\[1\\]"),
        (lambda: losses.layer_kl([Q, BAD]), "layers\\[1\\]: row 2 holds NaN"),
        (lambda: losses.layer_kl([Q, P], temperature=0), "temperature"),
        (lambda: losses.global_orthogonal(Q[:1]), "there is 1"),
        (lambda: losses.global_orthogonal(EMPTY), "row 3 is all zeros"),
        (lambda: losses.contrastive_tension(Q, P[:3], SAME), "expected 4 rows"),
        (lambda: losses.contrastive_tension(Q, P, torch.tensor([1, 0, 2, 0])), "similar: row 2 is 2"),
        (lambda: losses.contrastive(Q, P, torch.tensor([1.0, 0.5, 1, 0])), "similar: row 1 is 0.5"),
        (lambda: losses.contrastive(Q.int(), P.int(), SAME), "a: expected floating point rows"),
        (lambda: losses.contrastive(EMPTY, P, SAME), "row 3 is all zeros"),
        (lambda: losses.pair_classes(Q, P, torch.tensor([0, 1, 2, 3]), rows(3, 18, 0)), "row 3 has the class 3"),
        (lambda: losses.pair_classes(Q, P, torch.tensor([0, 1, 2, 0]), rows(3, 12, 0)), "weight: expected \\[classes, 18\\]"),
        (lambda: losses.pair_classes(Q, P, torch.tensor([0, 1, 2, 0]), rows(3, 18, 0), features=()), "features"),
        (lambda: losses.cosine_regression(Q, P, torch.tensor([0.0, 1.0, float("inf"), 0.0])), "scores: row 2"),
        (lambda: losses.cosent(Q, P, torch.tensor([0.0, float("nan"), 1.0, 0.0])), "scores: row 1"),
        (lambda: losses.cosent(Q, P[:3], GRADES), "b: expected 4 rows"),
        (lambda: losses.angle(Q, P, GRADES, temperature=-1), "temperature"),
        (lambda: losses.cosent(Q[:1], P[:1], GRADES[:1]), "all 1 are equal"),
        (lambda: losses.pairwise_logistic(Q, P, GRADES, temperature=torch.ones(4)), "temperature: expected one number"),
        (lambda: losses.pairwise_logistic(EMPTY, P, GRADES), "row 3 is all zeros"),
        (lambda: losses.pairwise_logistic(Q, P, GRADES, rows_per_slab=-2), "rows_per_slab"),
        (lambda: losses.score_kl(Q, THREE, torch.ones(4, 2), temperature=0.0), "temperature"),
        (lambda: losses.score_kl(Q, THREE, torch.ones(4, 2), teacher_temperature=-1.0), "teacher_temperature"),
        (lambda: losses.score_kl(Q, THREE[:, :1], torch.ones(4, 1)), "2 or more"),
        (lambda: losses.score_kl(Q, torch.stack([P, BAD], dim=1), torch.ones(4, 2)), "candidates: row 2 holds NaN"),
        (lambda: losses.list_mle(Q, THREE, torch.full((4, 2), float("nan"))), "teacher_scores: row 0"),
        (lambda: losses.margin_mse(Q, P, BAD, GRADES), "negatives: row 2"),
        (lambda: losses.margin_mse(Q, P[:3], Q, GRADES), "found 3 and 4"),
        (lambda: losses.embedding_distance(Q, P, distance="manhattan"), "distance"),
        (lambda: losses.alignment(Q, P, power=0), "power"),
        (lambda: losses.uniformity(Q, sharpness=0), "sharpness"),
    ],
)
def test_what_cannot_be_is_refused_naming_argument_and_row(call, says):
    with pytest.raises(BadInput, match=says):
        call()

"""The relatives of InfoNCE: any slab size equals the loops of the paper's equation, in value and in every gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.types import Targets

import reference
from problems import Problem, count_multiplies, gradients, has_lonely_row, problems

SLABS = st.integers(1, 12)
DIRECTIONS = ("query_to_candidate", "candidate_to_query", "query_to_query", "candidate_to_candidate")


def same(found, expected):
    for name, a, b in zip(("rows", "queries", "candidates", "temperature", "more"), found, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def golden(n, d, a):
    i, j = torch.meshgrid(torch.arange(n, dtype=torch.float64), torch.arange(d, dtype=torch.float64), indexing="ij")
    return torch.sin(a + 1.3 * i + 0.7 * j * torch.sqrt(i + 1))


Q, P, N = (F.normalize(golden(4, 6, a), dim=1) for a in (0.1, 0.4, 2.0))


@settings(max_examples=80, deadline=None)
@given(
    problem=problems(),
    rows=SLABS,
    directions=st.lists(st.sampled_from(DIRECTIONS), min_size=1, max_size=4, unique=True).map(tuple),
    partition=st.sampled_from(["per_direction", "joint"]),
)
def test_any_directions_and_partition_equal_the_loops(problem: Problem, rows, directions, partition):
    assume(directions != ("query_to_candidate",))  # the hot path has its own test
    if has_lonely_row(problem) and {"query_to_candidate", "candidate_to_query"} & set(directions):
        with pytest.raises(BadInput, match="no negative"):
            gradients(losses.info_nce, problem, directions=directions, partition=partition, rows_per_slab=rows)
        return
    expected = gradients(reference.directed, problem, directions=directions, partition=partition)
    if not torch.isfinite(expected[0]).all() and {"query_to_query", "candidate_to_candidate"} & set(directions):
        with pytest.raises(BadInput, match="nothing to be contrasted with"):
            gradients(losses.info_nce, problem, directions=directions, partition=partition, rows_per_slab=rows)
        return
    found = gradients(losses.info_nce, problem, directions=directions, partition=partition, rows_per_slab=rows)
    same(found, expected)


@settings(max_examples=40, deadline=None)
@given(problem=problems(), rows=SLABS)
def test_nt_xent_and_clip_equal_the_loops(problem: Problem, rows):
    b = len(problem.queries)
    plain = replace_problem(problem, candidates=problem.candidates[:b], upstream=torch.rand(2 * b, dtype=torch.float64))
    same(
        gradients(lambda q, c, _, temperature: losses.nt_xent(q, c, temperature=temperature, rows_per_slab=rows), plain),
        gradients(lambda q, c, _, temperature: reference.nt_xent(q, c, temperature=temperature), plain),
    )
    plain = replace_problem(plain, targets=Targets(), upstream=problem.upstream)
    both = ("query_to_candidate", "candidate_to_query")
    same(
        gradients(losses.clip, plain, rows_per_slab=rows),
        gradients(reference.directed, plain, directions=both, partition="per_direction"),
    )


def replace_problem(problem, **changes):
    return problem._replace(**changes)


@settings(max_examples=40, deadline=None)
@given(problem=problems(), rows=SLABS, bias=st.floats(-12, 2))
def test_siglip_equals_the_loops_with_learned_temperature_and_bias(problem: Problem, rows, bias):
    assume(not has_lonely_row(problem))
    assume(problem.temperature > 0.05)  # the loops overflow below

    def with_bias(loss, **options):
        knob = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
        found = gradients(lambda *a, **k: loss(*a, bias=knob, **k, **options), problem)
        value = loss(
            problem.queries, problem.candidates, problem.targets, temperature=problem.temperature, bias=knob, **options
        )
        return (*found, *torch.autograd.grad((value * problem.upstream).sum(), knob))

    same(with_bias(losses.siglip, rows_per_slab=rows), with_bias(reference.siglip))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), rows=SLABS, temperature=st.floats(0.05, 1), form=st.sampled_from(["out", "in"]))
def test_sup_con_equals_the_loops(seed, rows, temperature, form):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (9,), generator=generator)
    assume(int(torch.bincount(labels).clamp(min=1).min()) >= 1 and not bool((torch.bincount(labels) == 1).any()))
    z = F.normalize(torch.randn(9, 4, generator=generator, dtype=torch.float64), dim=1)
    upstream = torch.rand(9, generator=generator, dtype=torch.float64)

    def run(loss, **options):
        leaf, knob = z.clone().requires_grad_(), torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        found = loss(leaf, labels, temperature=knob, form=form, **options)
        return (found.detach(), *torch.autograd.grad((found * upstream).sum(), (leaf, knob)))

    same(run(losses.sup_con, rows_per_slab=rows), run(reference.sup_con))


ONE_SLAB = [
    (losses.decoupled, reference.decoupled, {}, True),
    (losses.smoothed, reference.smoothed, {"smoothing": 0.2}, True),
    (losses.debiased, reference.debiased, {"positive_prior": 0.15}, False),
    (losses.hardness_weighted, reference.hardness_weighted, {"strength": 3.0}, False),
]


@pytest.mark.parametrize(("fast", "slow", "options", "learned"), ONE_SLAB, ids=lambda value: getattr(value, "__name__", ""))
@settings(max_examples=30, deadline=None)
@given(problem=problems(), rows=SLABS)
def test_the_one_direction_relatives_equal_the_loops(fast, slow, options, learned, problem: Problem, rows):
    assume(not has_lonely_row(problem))
    assume(problem.queries.shape[1] > 1)  # in one dimension all similarities are 1 or -1: debiased stands on its bound's edge
    fixed = max(problem.temperature, 0.05)

    def run(loss, **more):
        if learned:
            return gradients(loss, problem, **options, **more)
        return gradients(
            lambda q, c, t, temperature: loss(q, c, t, temperature=fixed, **options, **more) + 0 * temperature, problem
        )

    same(run(fast, rows_per_slab=rows), run(slow))


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (lambda: losses.info_nce(Q, torch.cat([P, N]), temperature=0.05).mean(), 0.3425086848),
        (lambda: losses.clip(Q, P, temperature=0.07).mean(), 0.0001291381),
        (lambda: losses.siglip(Q, P, temperature=0.1, bias=-10.0).mean(), 0.9635974863),
        (lambda: losses.nt_xent(Q, P, temperature=0.5).mean(), 0.5166777477),
        (
            lambda: losses.info_nce(
                Q, torch.cat([P, N]), temperature=0.05, directions=("query_to_candidate", "candidate_to_query")
            ).mean(),
            0.1712565548,
        ),
    ],
)
def test_the_peers_golden_values(found, value):
    assert float(found()) == pytest.approx(value, rel=1e-6)


def test_of_collapsed_rows_each_says_its_constant():
    rows = torch.ones(6, 4, dtype=torch.float64) / 2
    for loss, expected in (
        (losses.nt_xent(rows, rows), math.log(11)),
        (losses.clip(rows, rows), math.log(6)),
        (losses.decoupled(rows, rows), math.log(5)),
        (losses.smoothed(rows, rows), math.log(6)),
        (losses.sup_con(rows, torch.zeros(6, dtype=torch.int64)), math.log(5)),
    ):
        torch.testing.assert_close(loss, torch.full_like(loss, expected))


def test_both_directions_cost_four_multiplies_and_one_costs_three():
    a, b = (F.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(s)), dim=1).requires_grad_() for s in (0, 1))
    for loss, multiplies in ((losses.info_nce, 3), (losses.clip, 4), (losses.siglip, 3)):
        assert count_multiplies(lambda loss=loss: loss(a, b).mean().backward()) == multiplies, loss.__name__


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: losses.info_nce(Q, P, directions=("backwards",)), "directions"),
        (lambda: losses.info_nce(Q, P, directions=()), "directions"),
        (lambda: losses.info_nce(Q, P, directions=DIRECTIONS, partition="all"), "partition"),
        (lambda: losses.clip(Q, P[:3]), "as many rows"),
        (lambda: losses.nt_xent(Q[:1], P[:1]), "no negative"),
        (lambda: losses.clip(Q[:1], P[:1]), "no negative"),
        (lambda: losses.siglip(Q, P, bias=torch.zeros(2)), "bias"),
        (lambda: losses.sup_con(Q, torch.tensor([0, 0, 1, 2])), "row 2 has no positive"),
        (lambda: losses.sup_con(Q, torch.tensor([0, 0, 1])), "labels"),
        (lambda: losses.sup_con(Q, torch.tensor([0, 0, 1, 1]), form="sideways"), "form"),
        (lambda: losses.debiased(Q, P, positive_prior=1.0), "positive_prior"),
        (lambda: losses.smoothed(Q, P, smoothing=-0.1), "smoothing"),
        (lambda: losses.nt_xent(Q, P, temperature=0.0), "temperature"),
    ],
)
def test_what_cannot_be_is_refused_naming_the_argument(call, says):
    with pytest.raises(BadInput, match=says):
        call()

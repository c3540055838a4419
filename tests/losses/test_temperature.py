"""Temperatures that are learned, scheduled or chosen by source, modules that hold what is learned, and the entropy of the push."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.losses import ClassPrototypes, SourceTemperatures, Temperature, cosine_temperature, gradient_entropy
from nearfar.types import Targets

import reference
from problems import Problem, has_lonely_row, problems


def rows(b, d, seed):
    return F.normalize(torch.randn(b, d, generator=torch.Generator().manual_seed(seed)), dim=1)


@settings(max_examples=40, deadline=None)
@given(problem=problems(), slab=st.integers(1, 12))
def test_the_entropy_of_the_push_equals_the_loops(problem: Problem, slab):
    assume(not has_lonely_row(problem))
    assume(problem.temperature > 0.03)  # the loops' exponentials vanish below
    found = gradient_entropy(
        problem.queries, problem.candidates, problem.targets, temperature=problem.temperature, rows_per_slab=slab
    )
    expected = reference.gradient_entropy(problem.queries, problem.candidates, problem.targets, temperature=problem.temperature)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_the_entropy_goes_from_none_to_all_negatives_and_asks_for_no_gradient():
    q, c = rows(8, 16, 0).requires_grad_(), rows(8, 16, 1)
    cold, warm = (gradient_entropy(q, c, temperature=t) for t in (1e-4, 1e4))
    assert not warm.requires_grad
    assert float(cold.max()) < 0.01
    torch.testing.assert_close(warm, torch.full((8,), math.log(7)))


def test_a_learned_temperature_starts_where_clip_does_and_keeps_its_bounds_with_a_gradient():
    knob = Temperature()
    assert float(knob().detach()) == pytest.approx(0.07)
    assert float(knob.log_scale) == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        knob.log_scale.fill_(math.log(500.0))
    assert float(knob()) == pytest.approx(0.01)
    knob().backward()
    assert float(knob.log_scale.grad) != 0  # so it can come back
    knob.clamp_()
    assert float(knob.log_scale) == pytest.approx(math.log(100.0))
    assert not Temperature(0.05, learned=False).log_scale.requires_grad


def test_a_step_on_a_learned_temperature_lowers_the_loss():
    q = rows(32, 16, 0)
    c = F.normalize(q + 0.3 * rows(32, 16, 1), dim=1)
    loss = losses.InfoNCE(Temperature(0.5))
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        value = loss(q, c).mean()
        value.backward()
        optimizer.step()
        values.append(float(value))
    assert values == sorted(values, reverse=True)
    assert float(loss.temperature()) < 0.5


def test_each_source_has_its_temperature():
    q, c, sources = rows(6, 8, 0), rows(6, 8, 1), torch.tensor([0, 1, 0, 2, 1, 0])
    knobs = SourceTemperatures(3, [0.05, 0.1, 0.5])
    found = losses.info_nce(q, c, temperature=knobs(sources))
    for source, temperature in enumerate((0.05, 0.1, 0.5)):
        alone = losses.info_nce(q, c, temperature=temperature)
        torch.testing.assert_close(found[sources == source], alone[sources == source])
    found.sum().backward()
    assert bool((knobs.log_scale.grad != 0).all())


@pytest.mark.parametrize("step", [0, 3, 10, 13, 20])
def test_the_schedule_is_the_papers_and_returns_once_a_period(step):
    expected = (1.0 - 0.1) * (1 + math.cos(2 * math.pi * step / 20)) / 2 + 0.1
    assert cosine_temperature(step, 20, 0.1, 1.0) == pytest.approx(expected)
    assert cosine_temperature(step + 20, 20, 0.1, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "call", "same"),
    [
        (losses.InfoNCE, lambda m, a, b: m(a, b), lambda a, b: losses.info_nce(a, b, temperature=0.07)),
        (losses.CLIP, lambda m, a, b: m(a, b), lambda a, b: losses.clip(a, b, temperature=0.07)),
        (losses.SigLIP, lambda m, a, b: m(a, b), lambda a, b: losses.siglip(a, b, temperature=0.1, bias=-10.0)),
    ],
)
def test_a_module_is_the_function_with_its_parameters_and_survives_being_saved(make, call, same):
    a, b = rows(5, 8, 0), rows(5, 8, 1)
    module = make()
    torch.testing.assert_close(call(module, a, b), same(a, b))
    call(module, a, b).mean().backward()
    assert all(p.grad is not None and float(p.grad) != 0 for p in module.parameters())
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1)
    other = make()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(call(other, a, b), call(module, a, b), rtol=0, atol=0)


@pytest.mark.parametrize("loss", [losses.softmax_classes, losses.arc_face, losses.cos_face, losses.proxy_nca])
def test_prototypes_are_learned(loss):
    z, labels = rows(12, 8, 0), torch.arange(12) % 3
    module = ClassPrototypes(3, 8, loss)
    before = float(module(z, labels).mean())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        module(z, labels).mean().backward()
        optimizer.step()
    assert float(module(z, labels).mean()) < before
    torch.testing.assert_close(ClassPrototypes(3, 8).prototypes, ClassPrototypes(3, 8).prototypes)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Temperature(0.001), "start: expected a temperature from 0.01 to 1.0, found 0.001"),
        (lambda: Temperature(0.5, low=0.9, high=0.1), "low <= high"),
        (lambda: SourceTemperatures(2, [0.1]), "start"),
        (lambda: SourceTemperatures(2)(torch.tensor([0, 2])), "row 1 has 2"),
        (lambda: SourceTemperatures(2)(torch.tensor([0.0])), "expected integers"),
        (lambda: cosine_temperature(1, 0, 0.1, 1.0), "period above 0"),
        (lambda: ClassPrototypes(1, 4), "at least 2 classes"),
        (lambda: gradient_entropy(torch.eye(3), torch.eye(3), Targets(), temperature=0), "temperature"),
    ],
)
def test_what_cannot_be_is_refused(call, says):
    with pytest.raises(BadInput, match=says):
        call()

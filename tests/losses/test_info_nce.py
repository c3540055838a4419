"""InfoNCE: the slabs equal the loops, in value and in every gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nearfar.errors import BadInput
from nearfar.losses import info_nce
from nearfar.similarity import row_losses
from nearfar.types import SlabTargets, Targets

import reference
from problems import Problem, count_multiplies, gradients, has_lonely_row, problems


def cross_entropy(logits: torch.Tensor, slab: SlabTargets) -> torch.Tensor:
    if slab.valid is not None:
        logits = logits.masked_fill(~slab.valid, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, slab.positive, reduction="none")


@settings(max_examples=60, deadline=None)
@given(problem=problems(), rows=st.integers(1, 12))
def test_any_slab_size_equals_the_loops_in_value_and_every_gradient(problem: Problem, rows: int):
    if has_lonely_row(problem):
        with pytest.raises(BadInput, match="no negative"):
            gradients(info_nce, problem, rows_per_slab=rows)
        return

    def loops(q, c, targets, *, temperature):
        values = reference.info_nce(q, c, targets, temperature=temperature)
        return values if problem.weights is None else values * problem.weights

    expected = gradients(loops, problem)
    for loss in (info_nce, lambda *a, **k: row_losses(cross_entropy, *a, **k)):
        found = gradients(loss, problem, rows_per_slab=rows, weights=problem.weights)
        for name, a, b in zip(("rows", "queries", "candidates", "temperature"), found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def test_the_gradient_passes_gradcheck_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    c = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, c, t: info_nce(q, c, temperature=t, rows_per_slab=2), (q, c, t))


def test_a_second_derivative_is_refused():
    q = torch.eye(3, requires_grad=True)
    with pytest.raises(BadInput, match="no second derivative"):
        torch.autograd.grad(info_nce(q, torch.eye(3)).sum(), q, create_graph=True)


def test_of_collapsed_embeddings_it_is_log_n():
    rows = torch.ones(6, 4) / 2
    torch.testing.assert_close(info_nce(rows, rows), torch.full((6,), math.log(6)))


def test_permuting_the_columns_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    q, c = torch.randn(5, 8, generator=generator), torch.randn(9, 8, generator=generator)
    order = torch.randperm(9, generator=generator)
    where = torch.argsort(order)[:5]
    torch.testing.assert_close(info_nce(q, c[order], Targets(where), temperature=1.0), info_nce(q, c, temperature=1.0))


def test_value_and_gradient_are_finite_at_temperature_one_hundredth():
    generator = torch.Generator().manual_seed(2)
    q = torch.nn.functional.normalize(torch.randn(32, 4, generator=generator), dim=1).requires_grad_()
    rows = info_nce(q, -q.detach(), temperature=0.01)
    rows.mean().backward()
    assert torch.isfinite(rows).all()
    assert torch.isfinite(q.grad).all()


def test_the_golden_value_of_multiple_negatives_with_scale_20():
    def made(a: float) -> torch.Tensor:
        return torch.tensor(
            [[math.sin(a + 1.3 * i + 0.7 * j * math.sqrt(i + 1)) for j in range(6)] for i in range(4)], dtype=torch.float64
        )

    q, p, n = (torch.nn.functional.normalize(made(a), dim=1) for a in (0.1, 0.4, 2.0))
    assert float(info_nce(q, torch.cat([p, n]), temperature=1 / 20).mean()) == pytest.approx(0.3425086848, rel=1e-8)


def test_bytes_saved_for_backward_grow_as_rows_plus_columns():
    def saved(n: int) -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel() * tensor.element_size()
            return tensor

        q, c = torch.randn(n, 8, requires_grad=True), torch.randn(n, 8, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            info_nce(q, c, temperature=1.0).mean()
        return count

    assert saved(2048) <= 2 * saved(1024) + 64
    assert saved(2048) < 2048 * 2048  # a quarter of what the float32 matrix would take


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize("groups", [False, True])
def test_no_tensor_larger_than_a_slab_is_ever_made(groups: bool):
    n = 512
    ids = torch.arange(n) // 2
    targets = Targets(row_groups=ids, column_groups=ids) if groups else None
    q, c = torch.randn(n, 4, requires_grad=True), torch.randn(n, 4, requires_grad=True)
    with LargestTensor() as watch:
        (info_nce(q, c, targets, temperature=1.0, rows_per_slab=16) * torch.rand(n)).sum().backward()
    assert watch.elements == 16 * n


def test_one_direction_costs_three_multiplies_a_locked_side_two_and_no_gradient_one():
    q, c = torch.randn(8, 4), torch.randn(8, 4)

    def step(q: torch.Tensor, c: torch.Tensor) -> None:
        info_nce(q, c, temperature=1.0, rows_per_slab=8).mean().backward()

    assert count_multiplies(lambda: info_nce(q, c, temperature=1.0)) == 1
    assert count_multiplies(lambda: step(q.clone().requires_grad_(), c)) == 2
    assert count_multiplies(lambda: step(q, c.clone().requires_grad_())) == 2
    assert count_multiplies(lambda: step(q.clone().requires_grad_(), c.clone().requires_grad_())) == 3


ROWS = torch.eye(4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: info_nce(ROWS[0], ROWS), r"queries: expected a matrix .*\(4,\)"),
        (lambda: info_nce(ROWS, ROWS[:, :3]), "candidates: rows of 3 dimensions against queries of 4"),
        (lambda: info_nce(ROWS, ROWS[:2]), "2 columns for 4 rows"),
        (lambda: info_nce(ROWS.long(), ROWS), "queries: expected floating point"),
        (lambda: info_nce(ROWS.double(), ROWS), "float32 against queries of torch.float64"),
        (lambda: info_nce(ROWS, ROWS.clone().index_fill_(0, torch.tensor(2), torch.nan)), "candidates: row 2 holds NaN"),
        (lambda: info_nce(ROWS, ROWS, temperature=0.0), "temperature: expected one number above 0"),
        (lambda: info_nce(ROWS, ROWS, temperature=float("nan")), "temperature"),
        (lambda: info_nce(ROWS, ROWS, rows_per_slab=0), "rows_per_slab: expected at least 1"),
        (lambda: info_nce(ROWS, ROWS, Targets(torch.tensor([0, 1, 2, 4]))), "row 3 points at column 4 of 4"),
        (lambda: info_nce(ROWS, ROWS, Targets(torch.tensor([0, 1]))), "targets.positive: expected 4 int64"),
        (lambda: info_nce(ROWS, ROWS, weights=torch.ones(3)), r"weights: expected one per row \(4\)"),
        (lambda: info_nce(ROWS[:1], ROWS[:1]), "row 0 has no negative"),
        (lambda: info_nce(ROWS, ROWS, Targets(column_items=torch.zeros(4, dtype=torch.int64))), "row 0 has no negative"),
        (lambda: info_nce(ROWS[:0], ROWS), "queries: there is no row"),
    ],
)
def test_bad_input_names_the_argument_and_the_row(call, says: str):
    with pytest.raises(BadInput, match=says):
        call()

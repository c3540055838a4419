"""Problems for losses, drawn at random: rows, who belongs to whom, temperatures, upstream weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nearfar.similarity.multiplies import has_onednn
from nearfar.types import Targets

import reference


class Problem(NamedTuple):
    queries: torch.Tensor
    candidates: torch.Tensor
    targets: Targets
    temperature: float
    upstream: torch.Tensor
    weights: torch.Tensor | None


@st.composite
def problems(draw) -> Problem:
    b, extra, d = draw(st.integers(2, 9)), draw(st.integers(0, 5)), draw(st.integers(1, 6))
    n = b + extra
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def rows(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, d, generator=generator, dtype=torch.float64), dim=1)

    def ids(count: int) -> torch.Tensor:
        return torch.randint(-1, 2 * n, (count,), generator=generator)

    positive = torch.randperm(n, generator=generator)[:b] if draw(st.booleans()) else None
    if positive is not None and draw(st.booleans()):  # two captions of a picture: rows of one positive
        positive[-1] = positive[0]
    groups, items = draw(st.booleans()), draw(st.booleans())
    targets = Targets(
        positive,
        row_groups=ids(b) if groups else None,
        column_groups=ids(n) if groups else None,
        row_items=ids(b) if items and draw(st.booleans()) else None,
        column_items=ids(n) if items else None,
    )
    same_upstream = draw(st.booleans())
    upstream = (
        torch.full((b,), 0.3, dtype=torch.float64) if same_upstream else torch.rand(b, generator=generator, dtype=torch.float64)
    )
    weights = torch.rand(b, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    return Problem(rows(b), rows(n), targets, draw(st.floats(0.01, 1.0)), upstream, weights)


def gradients(loss, problem: Problem, **options) -> tuple[torch.Tensor, ...]:
    q, c = problem.queries.clone().requires_grad_(), problem.candidates.clone().requires_grad_()
    t = torch.tensor(problem.temperature, dtype=torch.float64, requires_grad=True)
    rows = loss(q, c, problem.targets, temperature=t, **options)
    return (rows.detach(), *torch.autograd.grad((rows * problem.upstream).sum(), (q, c, t)))


def has_lonely_row(problem: Problem) -> bool:
    for i in range(len(problem.queries)):
        positive = i if problem.targets.positive is None else int(problem.targets.positive[i])
        others = (j for j in range(len(problem.candidates)) if j != positive)
        if all(reference.left_out(problem.targets, i, j, positive) for j in others):
            return True
    return False


class CountMultiplies(TorchDispatchMode):
    """How many matrix multiplies of n columns or rows run while this is on."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        named = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        self.products += func.overloadpacket in named or "_linear_pointwise" in str(func)
        return func(*args, **(kwargs or {}))


def count_multiplies(call) -> int:
    """The matrix multiplies that `call()` makes."""
    has_onednn()  # tries a multiply, once
    with CountMultiplies() as count:
        call()
    return count.products

"""Each loss as plain Python loops over numbers, written from its paper's equation: the specification of the fast versions."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.types import Targets


def left_out(targets: Targets, row: int, column: int, positive: int) -> bool:
    """Whether this column is known not to be a negative of this row (the docstring of `Targets`, as one sentence of code)."""
    if column == positive:
        return False

    def same(a: Tensor | None, i: int, b: Tensor | None, j: int) -> bool:
        return a is not None and b is not None and int(a[i]) >= 0 and int(a[i]) == int(b[j])

    return (
        same(targets.row_groups, row, targets.column_groups, column)
        or same(targets.column_items, positive, targets.column_items, column)
        or same(targets.row_items, row, targets.column_items, column)
    )


def info_nce(
    queries: Tensor, candidates: Tensor, targets: Targets | None = None, *, temperature: float | Tensor = 0.05
) -> Tensor:
    """van den Oord 2018, eq. 4: -log of f(positive) over the sum of f(candidate), f = exp(q . c / t)."""
    targets = targets if targets is not None else Targets()
    losses = []
    for i in range(len(queries)):
        positive = i if targets.positive is None else int(targets.positive[i])
        below = torch.zeros((), dtype=queries.dtype)
        for j in range(len(candidates)):
            if not left_out(targets, i, j, positive):
                below = below + torch.exp(torch.dot(queries[i], candidates[j]) / temperature)
        losses.append(-torch.log(torch.exp(torch.dot(queries[i], candidates[positive]) / temperature) / below))
    return torch.stack(losses)

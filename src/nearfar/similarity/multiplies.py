"""Multiplies by oneDNN, which torch has for bfloat16 alone: `torch.mm` of float32 rows goes to MKL.

Decisions (2 AMD cores with AVX-512). Rows against wide matrices run 10 to 30 % faster than MKL's in float32, and a linear layer's offsets, added on the way out, are free, where
`torch.addmm` writes them first: 3 to 10 % in bfloat16. The result is always a new tensor, so a large one costs the pages it is written to; where the
operator is not there, torch's own multiply runs.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LARGEST_RESULT = 30 << 20
"""Bytes of a result above which torch's multiply into memory that is already there is the faster one: malloc takes fresh pages for 32 MiB and more."""


@cache
def has_onednn() -> bool:
    """Whether torch can multiply by oneDNN here: x86 builds with it, which Linux's and Windows' have."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        two = torch.ones(2, 2)
        return bool((_linear(two, two, None) == 2).all())
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # another torch, another signature
        return False


def multiplies_better(matrix: Tensor) -> bool:
    """Whether rows against this matrix multiply faster by oneDNN than by `torch.mm`: in float32 on a CPU."""
    return matrix.device.type == "cpu" and matrix.dtype == torch.float32 and has_onednn()


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None, then: Literal["none", "gelu"] = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, then, [], "none" if then == "gelu" else "")


def linear(
    rows: Float[Tensor, "r d"],
    weight: Float[Tensor, "n d"],
    bias: Float[Tensor, " n"] | None = None,
    then: Literal["none", "gelu"] = "none",
) -> Float[Tensor, "r n"]:
    """rows @ weight.T + bias, of which GELU (its exact form) where asked for, without a graph."""
    if (
        rows.device.type == "cpu"
        and rows.dtype in (torch.float32, torch.bfloat16)
        and len(rows)
        and len(weight)
        and has_onednn()
    ):
        return _linear(_whole(rows), _whole(weight), bias, then)
    found = F.linear(rows, weight, bias)
    return torch.ops.aten.gelu_(found) if then == "gelu" else found


def _whole(matrix: Tensor) -> Tensor:
    """The matrix in one piece of memory, by rows or by columns: some columns of a wider one are multiplied hundreds of times slower."""
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()

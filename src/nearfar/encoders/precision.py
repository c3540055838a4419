"""A model run in a lower precision than its parameters have: copies made once a step, gradients added up in the parameters' own.

The mixed precision of Micikevicius 2018 (arXiv 1710.03740, section 3.1: master weights in float32), with bfloat16, which needs no loss scale. Autocast would cast
every weight again in every micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from nearfar.errors import BadConfig
from nearfar.similarity.products import multiplies_bfloat16

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the device multiplies it itself, else float32."""


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a precision means on a device. Raises `BadConfig` for an unknown one."""
    if precision not in get_args(Precision):
        raise BadConfig(f"precision={precision}: expected one of {', '.join(get_args(Precision))}.")
    lower = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device))
    return torch.bfloat16 if lower else torch.float32


class Copies:
    """Parameters of a module in another dtype, by name. A gradient that reaches a copy is added to its parameter's `.grad` at once, and dropped."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, is_training: bool, apart: str | None = None) -> None:
        """Copy every floating point parameter whose name does not begin with `apart`; copies ask for gradients where their parameters do and `is_training`."""
        self._parameters = {
            name: p for name, p in module.named_parameters() if p.is_floating_point() and not (apart and name.startswith(apart))
        }
        self.tensors: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            copy = parameter.detach().to(dtype)
            if is_training and parameter.requires_grad:
                copy.requires_grad_()
                copy.register_post_accumulate_grad_hook(_hand_over(parameter))
            self.tensors[name] = copy

    def refresh(self) -> None:
        """Take the parameters' values again, as they are after a step of the optimizer."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self.tensors[name].copy_(parameter)


def _hand_over(parameter: Tensor):
    def hand_over(copy: Tensor) -> None:
        gradient, copy.grad = copy.grad, None
        if gradient is None:
            return
        if parameter.grad is None:
            parameter.grad = gradient.to(parameter.dtype)
        else:
            parameter.grad.add_(gradient)

    return hand_over


class Lowered(Protocol):
    """A part of an encoder that multiplies under autocast: its device, and what it multiplies in where that is not its own."""

    dtype: torch.dtype | None

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        ...


@contextmanager
def lowering(part: Lowered, precision: Precision) -> Iterator[None]:
    """Inside, the part multiplies in this precision (`lowered` reads its `dtype`)."""
    before, dtype = part.dtype, compute_dtype(precision, part.device)
    part.dtype = None if dtype == torch.float32 else dtype
    try:
        yield
    finally:
        part.dtype = before


@contextmanager
def lowered(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, what is worth it multiplies in `dtype` (autocast; None: nothing changes). The casts are gone at the end, so that none made
    without a graph is met again with one."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        yield

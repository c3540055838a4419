"""Checks that several losses share: a knob above zero, finite numbers beside rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.errors import BadInput


def above_zero(name: str, knob: float | Tensor) -> float | Tensor:
    """`knob` as it is: a finite number above 0, or a scalar tensor of one. Raises `BadInput` otherwise."""
    if isinstance(knob, Tensor):
        if knob.numel() != 1:
            raise BadInput(f"{name}: expected one number, found shape {tuple(knob.shape)}.")
        knob = knob.reshape(())
    number = float(knob.detach() if isinstance(knob, Tensor) else knob)
    if not 0 < number < math.inf:
        raise BadInput(f"{name}: expected one number above 0, found {number}.")
    return knob


def finite_numbers(name: str, numbers: Tensor, shape: tuple[int, ...], per: str) -> Tensor:
    """`numbers` as they are: real, of `shape`, which `per` puts in words, and finite. Raises `BadInput` otherwise, naming the row."""
    if tuple(numbers.shape) != shape or numbers.is_complex():
        raise BadInput(f"{name}: expected one number per {per} {shape}, found {tuple(numbers.shape)} of {numbers.dtype}.")
    wrong = (~torch.isfinite(numbers)).nonzero()
    if len(wrong):
        raise BadInput(
            f"{name}: row {int(wrong[0, 0])} holds NaN or infinity. Leave that row out, or find out where it came from."
        )
    return numbers


def fixed(name: str, knob: float | Tensor) -> float:
    """`knob` as a number, where the paper's loss has no gradient for it. Raises `BadInput` for a tensor that learns, and as `above_zero`."""
    if isinstance(knob, Tensor) and knob.requires_grad:
        raise BadInput(f"{name}: found a tensor that learns, and this loss has it fixed. Pass a number: float({name}).")
    return float(above_zero(name, knob))

"""Checks that several losses share: a knob above zero, finite numbers beside rows, refusals in the words of the caller's own call."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from nearfar.errors import BadInput

_Loss = TypeVar("_Loss", bound=Callable[..., Any])


def spoken(**words: str) -> Callable[[_Loss], _Loss]:
    """A loss whose refusals name its own arguments: `words` says what those it calls call them, as in queries="a".

    What is no tensor is refused as well, and not left to torch. Nothing is looked at unless the loss fails, so nothing costs time.
    """

    def spoken_by(loss: _Loss) -> _Loss:
        @functools.wraps(loss)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return loss(*arguments, **options)
            except BadInput as error:
                if not words:
                    raise
                own = re.sub(rf"(?<![\w.])({'|'.join(words)})(?!\w)", lambda found: words[found[0]], str(error))
                raise BadInput(own) from None
            except (AttributeError, TypeError) as error:
                if (said := _no_tensor(loss, arguments, options)) is None:
                    raise
                raise BadInput(said) from error

        return cast(_Loss, call)

    return spoken_by


def _no_tensor(loss: Callable[..., object], arguments: tuple[object, ...], options: dict[str, object]) -> str | None:
    """Which argument should be a tensor and is none, in a sentence; None where all are what they should be, or the call fits no signature."""
    signature = inspect.signature(loss)
    try:
        given = signature.bind(*arguments, **options).arguments
    except TypeError:
        return None
    for name, value in given.items():
        kind = str(signature.parameters[name].annotation)
        if "Targets" in kind and isinstance(value, torch.Tensor):
            return f"{name}: expected Targets, found a tensor. If it says which column each row belongs to: Targets(positive={name})."
        if "Tensor" not in kind or isinstance(value, torch.Tensor) or (value is None and "None" in kind):
            continue
        if "float" in kind and isinstance(value, (int, float)):
            continue
        wanted = "a number or a tensor" if "float" in kind else "a tensor"
        if callable(value):
            return f"{name}: expected {wanted}, found {type(value).__name__}. Call it: {name}()."
        return f"{name}: expected {wanted}, found {type(value).__name__}. Convert it: torch.as_tensor({name})."
    return None


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

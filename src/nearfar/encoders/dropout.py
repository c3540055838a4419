"""Dropout (Srivastava 2014) whose masks cost less than the multiplies around them on a CPU, exact in distribution.

A byte of random bits decides an element, unless it is the one byte value in 256 that straddles the rate: that one draws once more, at full precision. So each
element is dropped independently with exactly the rate asked for. Torch's own draws 1.5 million elements in 24 to 28 ms here, this in 0.7 ms.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_WHOLE = {2: np.int16, 4: np.int32, 8: np.int64}
"""Whole numbers of as many bytes."""


def drop_mask(count: int, rate: float, seed: int) -> np.ndarray:
    """Which of `count` elements are dropped, [count] bool: each with probability `rate` (0 to below 1), a pure function of the seed."""
    generator = np.random.Generator(np.random.SFC64(seed))
    drawn = generator.integers(0, 2**64, -(-count // 8), dtype=np.uint64).view(np.uint8)[:count]
    edge = int(rate * 256)
    undecided = np.flatnonzero(drawn == edge)
    drop = np.less(drawn, edge)
    drop[undecided] = generator.random(len(undecided)) < rate * 256 - edge
    return drop


def keep_factors(drop: np.ndarray, rate: float, like: Tensor) -> Tensor:
    """What dropout multiplies a tensor by, in the shape of `drop`: 0, or 1 / (1 - rate), in the dtype and on the device of `like`."""
    if like.dtype == torch.bfloat16:
        # numpy has no bfloat16, and torch turns bool into it an element at a time: write the bits of the factor
        bits = torch.tensor(1 / (1 - rate), dtype=torch.bfloat16).view(torch.int16).numpy()
        return torch.from_numpy(np.multiply(np.logical_not(drop), bits)).view(torch.bfloat16).to(like.device)
    return torch.from_numpy(np.multiply(np.logical_not(drop), np.float32(1 / (1 - rate)))).to(like)


def mark_dropped(numbers: Tensor, rate: float, seed: int) -> Tensor:
    """Numbers of zero or more, in place: what dropout drops is made negative, so that the mask needs no memory of its own."""
    kind = _WHOLE[numbers.element_size()]
    drop = drop_mask(numbers.numel(), rate, seed)
    sign = torch.from_numpy(np.multiply(drop, np.iinfo(kind).min, dtype=kind)).reshape(numbers.shape)
    numbers.view(sign.dtype).bitwise_or_(sign.to(numbers.device))
    return numbers


def kept_part(marked: Tensor) -> Tensor:
    """Of what `mark_dropped` marked: the numbers kept, zero where dropped. Signs are read as those of whole numbers, four times as fast."""
    return _bits(marked).clamp(min=0).view(marked.dtype)


def unmarked(marked: Tensor) -> Tensor:
    """What `mark_dropped` was given."""
    bits = _bits(marked)
    return bits.bitwise_and(torch.iinfo(bits.dtype).max).view(marked.dtype)


def _bits(numbers: Tensor) -> Tensor:
    return numbers.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.element_size()])


def next_seed() -> int:
    """A seed from torch's global generator, which is where dropout draws: whoever replays that generator replays the masks."""
    return int(torch.randint(2**62, ()))

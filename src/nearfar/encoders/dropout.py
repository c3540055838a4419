"""Dropout (Srivastava 2014) whose masks cost less than the multiplies around them on a CPU.

The bits are a hash of element number and seed: each 32 of them give two elements 15 bits. Whole-number operations over all elements run on all threads at the speed of the cache,
where a generator's state makes one thread wait for itself: torch's own takes 24 to 28 ms for 1.5 million elements here, this half a millisecond. The rate is rounded
to 1 in 32,768, and what is kept is divided by the share that is then kept, so that no mean is moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 1 << 15
"""A rate is rounded to 1 in so many."""
AT_ONCE = 1 << 17
"""Whole numbers of 4 bytes that a processor takes through all of the hash at once, so that they stay in its cache."""
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of as many bytes."""
_WEYL = -1640531527  # 2**32 / golden ratio, as int32
_MIX = (-2048144789, -1028477387)  # 0x85EBCA6B, 0xC2B2AE35: the finalizer of MurmurHash3 (Appleby 2011)
_counted: dict[torch.device, Tensor] = {}


def draw(count: int, rate: float, seed: int, device: torch.device | None = None) -> Tensor:
    """[count] int16, below zero where an element is dropped: each with probability `kept_share` less than one, a pure function of the seed."""
    device = torch.device("cpu") if device is None else device
    counted, start, steps = _count((count + 1) // 2, device), _start(seed), _steps(rate)
    drawn = torch.empty_like(counted)
    at_once = AT_ONCE if device.type == "cpu" else max(1, len(counted))
    spare = torch.empty_like(counted[:at_once])
    for first in range(0, len(counted), at_once):
        bits = torch.add(counted[first : first + at_once], start, out=drawn[first : first + at_once])
        part = torch.bitwise_right_shift(bits, 13, out=spare[: len(bits)])
        bits.bitwise_xor_(part.bitwise_and_(0x7FFFF)).mul_(_MIX[1])  # right shifts of int32 drag the sign along
        torch.bitwise_right_shift(bits, 16, out=part)
        bits.bitwise_xor_(part).view(torch.int16).bitwise_and_(STEPS - 1).sub_(steps)
    return drawn.view(torch.int16)[:count]


def kept_share(rate: float) -> float:
    """The share of elements that dropout of this rate (0 to below 1) keeps: 1 - rate, rounded to 1 in `STEPS`."""
    return 1 - _steps(rate) / STEPS


def _steps(rate: float) -> int:
    return min(round(rate * STEPS), STEPS - 1)


def _start(seed: int) -> int:
    """Where in the sequence a draw begins, as int32: seeds that differ little begin far apart (Steele, Lea and Flood 2014, the mixer of SplitMix64)."""
    word = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    word = (word ^ word >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    word = (word ^ word >> 31) & 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word


def _count(lanes: int, device: torch.device) -> Tensor:
    """The first half of the hash, of 0, 1, 2...: kept for the next draw."""
    found = _counted.get(device)
    if found is None or len(found) < lanes:
        found = torch.arange(max(lanes, 1 << 16), dtype=torch.int32, device=device).mul_(_WEYL)
        found.bitwise_xor_((found >> 16).bitwise_and_(0xFFFF)).mul_(_MIX[0])
        _counted[device] = found
    return found[:lanes]


def keep_mask(drawn: Tensor, like: Tensor) -> Tensor:
    """Of a draw: whole numbers as wide as those of `like`, all bits set where an element is kept, none where it is dropped. The draw is used up."""
    return drawn.bitwise_right_shift_(15).bitwise_not_().to(_WHOLE[like.element_size()]).view(like.shape)


def keep(numbers: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Dropout itself: the numbers that `keep_mask` keeps, over the share kept, and zeros."""
    return _bits(numbers).bitwise_and(mask).view(numbers.dtype).mul_(1 / kept_share(rate))


def mark_dropped(numbers: Tensor, rate: float, seed: int) -> Tensor:
    """Numbers of zero or more, in place: what dropout drops is made negative, so that the mask needs no memory of its own."""
    bits = _bits(numbers)
    drawn = draw(numbers.numel(), rate, seed, numbers.device).to(bits.dtype).view(numbers.shape)
    bits.bitwise_or_(drawn.bitwise_and_(torch.iinfo(bits.dtype).min))
    return numbers


def kept_part(marked: Tensor) -> Tensor:
    """Of what `mark_dropped` marked: the numbers kept, zero where dropped. Signs are read as those of whole numbers, four times as fast."""
    return _bits(marked).clamp(min=0).view(marked.dtype)


def unmarked(marked: Tensor) -> Tensor:
    """What `mark_dropped` was given."""
    bits = _bits(marked)
    return bits.bitwise_and(torch.iinfo(bits.dtype).max).view(marked.dtype)


def _bits(numbers: Tensor) -> Tensor:
    return numbers.view(_WHOLE[numbers.element_size()])


def next_seed() -> int:
    """A seed from torch's global generator, which is where dropout draws: whoever replays that generator replays the masks."""
    return int(torch.randint(2**62, ()))

"""Temperature: fixed, learned, by schedule or by source, and what it does to the gradient.

The push on a negative is its softmax over the temperature, so the temperature says how many negatives are pushed. Measured with the stock MiniLM on
512 pairs of medical questions and answers, each the others' negative (`benchmarks/temperature.py`; entropy in nats, log 511 = 6.24 is even):

    temperature   entropy   effective negatives   the hardest one's share   rows with nothing to learn   gradient of a row
          0.005      0.28                   1.4                      0.89                         0.84                27.7
          0.01       0.59                   2.2                      0.79                         0.81                13.7
          0.02       1.32                   6.0                      0.62                         0.71                 6.9
          0.05       3.87                    73                      0.24                         0.05                 4.9
          0.1        5.64                   287                      0.04                         0                    6.8
          0.2        6.10                   444                      0.01                         0                    4.2
          1          6.23                   508                     0.003                         0                    0.9

Too low: one or two negatives take the whole push. Most rows teach nothing, the few that do pull hard, and the nearest negative is the one most
likely to be a positive in disguise: noise is learned first. Too high: all negatives are pushed alike, near or far, so hard negatives count
for nothing, rows spread evenly and what is alike is torn apart (Wang and Liu 2021). What suits lies between, where some tens of negatives share the
push: 0.01 to 0.02 for a strong model and clean hard negatives (E5, BGE), 0.05 for tuning, 0.07 and above for training from nothing (CLIP learns it from there).
`gradient_entropy` measures yours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import SlabTargets, Targets


@spoken()
def gradient_entropy(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Entropy, in nats, of how InfoNCE's push is shared among each row's negatives: their softmax, the positive left out.

    From 0 (one negative takes all of it) to log of the number of negatives; its exponential is the effective number of negatives. The push on a
    negative is its softmax over the temperature (Wang and Liu 2021, arXiv 2012.09740, eq. 3-5). No gradient. One multiply, over slabs.
    """
    with torch.no_grad():
        return row_losses(_negatives_entropy, queries, candidates, targets, temperature=temperature, **slabs)


def _negatives_entropy(logits: Tensor, slab: SlabTargets) -> Tensor:
    kept = logits if slab.valid is None else logits.masked_fill(~slab.valid, -torch.inf)
    logs = kept.scatter(1, slab.positive[:, None].to(logits.device), -torch.inf).log_softmax(dim=1)
    return -torch.where(logs == -torch.inf, 0.0, logs.exp() * logs).sum(dim=1)


class Temperature(nn.Module):
    """One temperature: `forward()` gives it as a scalar tensor. Its parameter is log(1 / temperature) (Radford 2021, arXiv 2103.00020, section 2.5).

    It starts at 0.07 and is held within `low` and `high`, 0.01 to 1 unless told otherwise: a scale of 1 to 100, CLIP's clamp. The bound holds in
    every forward, and the gradient passes through it as if it were not there, so that a temperature at its bound can come back. Call `clamp_()`
    after each optimizer step to bring the parameter itself back too: else it wanders on beyond the bound and takes as long to return. With
    `learned=False` it takes no gradient; the `state_dict` is the same. Take it out of weight decay, which pulls it towards 1.
    """

    def __init__(self, start: float = 0.07, *, learned: bool = True, low: float = 0.01, high: float = 1.0) -> None:
        super().__init__()
        _check_bounds([start], low, high)
        self.low, self.high = low, high
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=learned)

    def forward(self) -> Float[Tensor, ""]:
        return _bounded(self.log_scale, self.low, self.high)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the parameter back within its bounds, in place."""
        self.log_scale.clamp_(-math.log(self.high), -math.log(self.low))


class SourceTemperatures(nn.Module):
    """One temperature per source of data (or per class, per task): `forward(source_ids [b])` gives one per row, as `info_nce` takes it.

    Sources of unlike difficulty want unlike temperatures: see above. `start` is one number for all, or one per source; bounds and gradient are
    those of `Temperature`.
    """

    def __init__(
        self,
        sources: int,
        start: float | Sequence[float] = 0.07,
        *,
        learned: bool = True,
        low: float = 0.01,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        starts = list(start) if isinstance(start, Sequence) else [start] * sources
        if sources < 1 or len(starts) != sources:
            raise BadInput(f"start: expected one temperature for each of {sources} sources, found {len(starts)}.")
        _check_bounds(starts, low, high)
        self.low, self.high = low, high
        self.log_scale = nn.Parameter(torch.tensor([-math.log(t) for t in starts]), requires_grad=learned)

    def forward(self, source_ids: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        if source_ids.ndim != 1 or source_ids.is_floating_point():
            raise BadInput(f"source_ids: expected integers [b], found {tuple(source_ids.shape)} of {source_ids.dtype}.")
        outside = ((source_ids < 0) | (source_ids >= len(self.log_scale))).nonzero()
        if len(outside):
            row = int(outside[0])
            raise BadInput(
                f"source_ids: row {row} has {int(source_ids[row])}; there are {len(self.log_scale)} sources, from 0."
            )
        return _bounded(self.log_scale, self.low, self.high)[source_ids]

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring the parameters back within their bounds, in place."""
        self.log_scale.clamp_(-math.log(self.high), -math.log(self.low))


def cosine_temperature(step: float, period: float, low: float, high: float) -> float:
    """(high - low) (1 + cos(2 pi step / period)) / 2 + low: from high to low and back once a `period` (Kukleva 2023, TaCo, arXiv 2303.13664).

    Between telling instances apart (low) and telling groups apart (high), which rare and frequent classes need in turn; the paper goes from 1.0 to 0.1.
    `step` and `period` are in one unit, steps or epochs.
    """
    _check_bounds([], low, high)
    if not 0 < period < math.inf or not math.isfinite(step):
        raise BadInput(f"step, period: expected finite numbers, the period above 0, found {step} and {period}.")
    return (high - low) * (1 + math.cos(2 * math.pi * step / period)) / 2 + low


def _bounded(log_scale: Tensor, low: float, high: float) -> Tensor:
    """The temperature within its bounds; the gradient is that of the nearest one within, whether the parameter is beyond or not."""
    nearest = log_scale.detach().clamp(-math.log(high), -math.log(low))
    return torch.exp(-(log_scale - log_scale.detach() + nearest))


def _check_bounds(starts: Sequence[float], low: float, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise BadInput(f"low, high: expected 0 < low <= high, found {low} and {high}.")
    for start in starts:
        if not low <= start <= high:
            raise BadInput(f"start: expected a temperature from {low} to {high}, found {start}.")

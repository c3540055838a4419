"""A small convolutional network for pictures of 32 to 72 pixels, trained from nothing on a CPU.

Decisions. Its norms look at one picture at a time (GroupNorm: Wu and He 2018, arXiv 1803.08494): statistics of a batch would make a picture's row depend on
its micro-batch, so a cached step would not equal the whole one, and they let contrastive training cheat (He 2020, section 3.3). Strides do the work of
pooling, and the widest maps are never made: at full resolution a first layer costs more than all others together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import BadConfig

WIDTHS = (32, 64, 128, 256)
"""Channels of the stages, each half as large as the one before."""
GROUPS = 8


class SmallNet(nn.Module):
    """Pictures [n, 3, s, s] to rows [n, widths[-1]]: a stage for each width (a strided 3 x 3 convolution, then a residual one), then the mean."""

    def __init__(self, widths: Sequence[int] = WIDTHS, *, seed: int = 0) -> None:
        """Weights are normal with variance 2 / fan-in (He 2015), a function of the seed. Raises `BadConfig` for widths that are no multiples of 8."""
        super().__init__()
        if not widths or any(width < GROUPS or width % GROUPS for width in widths):
            raise BadConfig(f"widths={tuple(widths)}: expected multiples of {GROUPS}.")
        self.widths = tuple(int(width) for width in widths)
        self.down, self.across = nn.ModuleList(), nn.ModuleList()
        before = 3
        for width in self.widths:
            self.down.append(_layer(before, width, stride=2))
            self.across.append(_layer(width, width, stride=1))
            before = width
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 4:
                    drawn = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(drawn * (2 / parameter[0].numel()) ** 0.5)
                else:
                    parameter.fill_(1.0 if name.endswith("weight") else 0.0)

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.widths[-1]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Rows of normalized pictures."""
        maps = pixel_values
        for down, across in zip(self.down, self.across, strict=True):
            maps = F.relu(down(maps))
            maps = maps + F.relu(across(maps))
        return maps.flatten(2).mean(dim=2)

    def config(self) -> dict[str, object]:
        """What makes the same network again."""
        return {"net": "small", "widths": list(self.widths)}

    @staticmethod
    def of(config: Mapping[str, object]) -> SmallNet:
        """The network of a `config()`, weights drawn anew."""
        widths = config.get("widths")
        assert isinstance(widths, list)
        return SmallNet(widths)


def _layer(before: int, width: int, *, stride: int) -> nn.Sequential:
    made = nn.utils.skip_init(nn.Conv2d, before, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(made, nn.GroupNorm(GROUPS, width))

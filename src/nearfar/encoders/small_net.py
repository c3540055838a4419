"""A small convolutional network for pictures of 32 to 72 pixels, trained from nothing on a CPU.

Decisions. Its norms look at one picture at a time (GroupNorm: Wu and He 2018, arXiv 1803.08494): statistics of a batch would make a picture's row depend on
its micro-batch, so a cached step would not equal the whole one, and they let contrastive training cheat (He 2020, section 3.3). Strides do the work of
pooling, and the widest maps are never made: at full resolution a first layer costs more than all others together. On a CPU oneDNN's gradient of a strided convolution's
weights takes three to four times as long as the same sum as one multiply of unfolded maps, which is what is done (a step takes a fifth less).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
    made = nn.utils.skip_init(_Conv, before, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(made, nn.GroupNorm(GROUPS, width))


class _Conv(nn.Conv2d):
    """A 3 x 3 convolution, its gradient the faster way."""

    def forward(self, input: Tensor) -> Tensor:
        weight, stride = self.weight, int(self.stride[0])
        if torch.is_autocast_enabled(input.device.type):
            lower = torch.get_autocast_dtype(input.device.type)
            input, weight = input.to(lower), weight.to(lower)
        return _Convolve.apply(input, weight, stride)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride = stride
        return F.conv2d(maps, weight, stride=stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        maps, weight = ctx.saved_tensors
        stride, (to_maps, to_weight) = ctx.stride, ctx.needs_input_grad[:2]
        unfolds = maps.device.type == "cpu" and maps.shape[1] >= GROUPS and (stride > 1 or maps.shape[-1] <= 2)
        by_torch = [to_maps, to_weight and not unfolds, False]
        found: tuple[Tensor | None, Tensor | None] = (None, None)
        if any(by_torch):
            found = torch.ops.aten.convolution_backward(
                grad, maps, weight, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, by_torch
            )
        return found[0], _of_weight(maps, grad, stride) if to_weight and unfolds else found[1], None


def _of_weight(maps: Tensor, grad: Tensor, stride: int) -> Tensor:
    """The gradient [out, in, 3, 3] of the weights: the maps' 3 x 3 windows as rows, times the gradients [n, out, h, w] of the outputs."""
    n, out, height, width = grad.shape
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    of_n, of_h, of_w, _ = padded.stride()
    windows = padded.as_strided(
        (n, height, width, 3, 3, maps.shape[1]), (of_n, of_h * stride, of_w * stride, of_h, of_w, 1)
    ).reshape(n * height * width, -1)
    found = windows.T @ grad.permute(0, 2, 3, 1).reshape(n * height * width, out)
    return found.view(3, 3, maps.shape[1], out).permute(3, 2, 0, 1)

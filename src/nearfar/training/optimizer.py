"""AdamW (Loshchilov and Hutter 2019, algorithm 2) that touches only the rows of a table whose gradient it was given.

A row of a sparse gradient is its own AdamW: its moments, its decay and its count of steps move only in the steps that touch it,
so a rare token's first step is corrected for bias as a first step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from nearfar.errors import Damaged
from nearfar.training.config import OptimizerConfig


class Optimizer(ABC):
    """What moves named parameters by their gradients, and the state that a checkpoint keeps of it."""

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """One step with the gradients in `.grad`, which are taken away; returns their norm before clipping, nothing changed where it is not finite."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The state by name, for a checkpoint."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the state of `tensors()`. Raises `Damaged` where one is missing or of another shape."""
        for name, own in self.tensors().items():
            found = tensors.get(name)
            if found is None or found.shape != own.shape:
                raise Damaged(f"checkpoint: {name} is missing or of another shape. Start the run again without --resume.")
            own.copy_(found)


class AdamW(Optimizer):
    """The moments of named parameters, and the step that moves them."""

    def __init__(self, parameters: Mapping[str, Tensor], config: OptimizerConfig) -> None:
        """Moments start at zero; `parameters` are changed in place by `step`."""
        self.parameters, self.config = dict(parameters), config
        self.mean = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in self.parameters.items()}
        self.square = {name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in self.parameters.items()}
        # steps that touched each row (of parameters whose gradients are dense: row 0 stands for all)
        self.count = {
            name: torch.zeros(p.shape[0] if p.ndim else 1, dtype=torch.int64, device=p.device)
            for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        """One step with the gradients in `.grad`, which are taken away; returns their norm before clipping.

        Of a sparse gradient that names a row several times, as sums of sparse gradients do on some devices, the row's entries are added up.
        A norm that is not finite is returned before anything is changed, the gradients left where they are.
        """
        gradients = {name: _summed(p.grad) for name, p in self.parameters.items() if p.grad is not None}
        norm = length_of(gradients.values())
        if not math.isfinite(norm):
            return norm
        clip = self.config.clip
        scale = clip / norm if clip and norm > clip else 1.0
        alike: dict[tuple[float, bool], list[str]] = {}
        for name, gradient in gradients.items():
            rate = learning_rate * factor_of(name, self.config)
            if gradient.is_sparse:
                self._rows(name, self.parameters[name], gradient, rate, scale)
            else:  # gains, offsets and the temperature are not decayed
                alike.setdefault((rate, self.parameters[name].ndim > 1), []).append(name)
        for (rate, is_decayed), names in alike.items():
            self._whole(names, gradients, rate, scale, is_decayed)
        for name in gradients:
            self.parameters[name].grad = None
        return norm

    def _rows(self, name: str, parameter: Tensor, gradient: Tensor, rate: float, scale: float) -> None:
        # the private names: the public ones copy
        rows, values = gradient._indices()[0], gradient._values() * scale
        beta1, beta2 = self.config.beta1, self.config.beta2
        mean, square = self.mean[name][rows], self.square[name][rows]
        count = self.count[name][rows] + 1
        mean.mul_(beta1).add_(values, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(values, values, value=1 - beta2)
        self.mean[name][rows], self.square[name][rows], self.count[name][rows] = mean, square, count
        powers = count.to(torch.float64)
        first, second = 1 - beta1**powers, (1 - beta2**powers).sqrt()
        ratio = mean.div_(square.sqrt_().div_(second.to(values)[:, None]).add_(self.config.epsilon))
        current = parameter[rows]
        if self.config.weight_decay:
            current.mul_(1 - rate * self.config.weight_decay)
        parameter[rows] = current.sub_(ratio.mul_((rate / first).to(values)[:, None]))

    def _whole(self, names: list[str], gradients: Mapping[str, Tensor], rate: float, scale: float, is_decayed: bool) -> None:
        """Parameters of dense gradients, by torch's own kernel: one pass over each."""
        if scale != 1.0:
            torch.ops.aten._foreach_mul_.Scalar([gradients[name] for name in names], scale)
        for name in names:
            self.count[name][0] += 1
        told = self.config
        adamw(
            [self.parameters[name] for name in names],
            [gradients[name] for name in names],
            [self.mean[name] for name in names],
            [self.square[name] for name in names],
            [],
            [self.count[name][0].to(torch.float32) - 1 for name in names],  # the kernel counts this step itself
            fused=True,
            amsgrad=False,
            beta1=told.beta1,
            beta2=told.beta2,
            lr=rate,
            weight_decay=told.weight_decay if is_decayed else 0.0,
            eps=told.epsilon,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, for a checkpoint."""
        kinds = {"mean": self.mean, "square": self.square, "count": self.count}
        return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}


def _summed(gradient: Tensor) -> Tensor:
    """The gradient with each row named once: itself where it is so already, which costs nothing."""
    return gradient.coalesce() if gradient.is_sparse and not gradient.is_coalesced() else gradient


def length_of(gradients: Iterable[Tensor]) -> float:
    """The length of all gradients as one vector."""
    lengths = torch.ops.aten._foreach_norm.Scalar([g._values() if g.is_sparse else g for g in gradients])
    return float(torch.stack([length.double().cpu() for length in lengths]).norm()) if lengths else 0.0


def factor_of(name: str, config: OptimizerConfig) -> float:
    """What the learning rate of a parameter is multiplied by: the factor of the first pattern that fits its name, else 1."""
    return next((factor for pattern, factor in (config.scale or {}).items() if fnmatchcase(name, pattern)), 1.0)


def schedule(step: int, total: int, *, warmup: float, shape: str) -> float:
    """The share of the highest learning rate at `step` (from 0) of `total`: linear warm-up, then linear, cosine or constant."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    left = (step - rising) / max(total - rising, 1)
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * left))
    return 1.0 if shape == "constant" else 1 - left

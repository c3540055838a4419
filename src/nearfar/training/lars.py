"""LARS: momentum whose step is a share of each layer's weights (You, Gitman and Ginsburg 2017, arXiv 1708.03888), as SimCLR uses it.

Vectors and scalars (offsets, gains of norms, the temperature) are neither decayed nor adapted, as in SimCLR's code (`lars_optimizer.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nearfar.errors import BadConfig
from nearfar.training.optimizer import Optimizer, factor_of, length_of
from nearfar.training.settings import OptimizerConfig


class Lars(Optimizer):
    """v = momentum v + rate x ratio x (g + decay w), w = w - v, with ratio = trust |w| / |g + decay w| for matrices and 1 else."""

    def __init__(self, parameters: Mapping[str, Tensor], config: OptimizerConfig) -> None:
        """Velocities start at zero; `parameters` are changed in place by `step`."""
        self.parameters, self.config = dict(parameters), config
        self.velocity = {
            name: torch.zeros_like(p, memory_format=torch.contiguous_format) for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        """One step with the gradients in `.grad`, which are taken away; returns their norm. Raises `BadConfig` for a sparse gradient."""
        given = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if sparse := [name for name, gradient in given.items() if gradient.is_sparse]:
            raise BadConfig(f"optimizer.name=lars: {sparse[0]} is a token table, of which a step moves some rows. Use adamw.")
        norm = length_of(given.values())
        if not math.isfinite(norm):
            return norm
        told = self.config
        scale = told.clip / norm if told.clip and norm > told.clip else 1.0
        for name, gradient in given.items():
            parameter, velocity = self.parameters[name], self.velocity[name]
            rate, push = learning_rate * factor_of(name, told), gradient * scale
            if parameter.ndim > 1:
                push = push.add(parameter, alpha=told.weight_decay)
                weights, length = float(parameter.norm()), float(push.norm())
                rate *= told.trust * weights / length if weights and length else 1.0
            velocity.mul_(told.momentum).add_(push, alpha=rate)
            parameter.sub_(velocity)
            parameter.grad = None
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, for a checkpoint."""
        return {f"velocity/{name}": tensor for name, tensor in self.velocity.items()}

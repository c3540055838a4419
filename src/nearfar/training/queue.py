"""Rows of past batches as further negatives: a slow copy of the encoder makes the candidates' rows, a queue keeps them.

He 2020, "Momentum Contrast for Unsupervised Visual Representation Learning" (arXiv 1911.05722). Queries meet their own candidate, the other candidates of the batch, and
the queue; no gradient passes through the slow copy. Queue and copy are state: they lie in every checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.encoders import AnyEncoder
from nearfar.encoders.computing import pads, training_width
from nearfar.encoders.pixels import join
from nearfar.errors import Mismatch
from nearfar.losses import Queue, update_momentum
from nearfar.training.caching import micro_batches
from nearfar.training.config import Config
from nearfar.types import Inputs, Targets


@dataclass
class Past:
    """The slow copy and what it made of past candidates."""

    slow: AnyEncoder
    queue: Queue
    momentum: float

    @torch.no_grad()
    def keys(self, inputs: Inputs, micro_tokens: int, *, seed: int) -> Tensor:
        """The slow copy's rows [n, d] of candidates, of views of their own (`seed`), in micro-batches."""
        self.slow.train()
        kinds, order = join([inputs])
        parts: list[Tensor] = []
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            for number, kind in enumerate(kinds):
                rows = torch.empty(len(kind), training_width(self.slow), device=self.slow.device)
                for at, chosen in enumerate(micro_batches(kind, micro_tokens, pads=pads(self.slow))):
                    torch.manual_seed(seed + (number << 32) + at)
                    rows[torch.from_numpy(chosen).to(rows.device)] = self.slow(kind.select(chosen)).float()
                parts.append(rows)
        return torch.cat(parts)[torch.from_numpy(order).to(self.slow.device)]

    def extend(self, targets: Targets, candidates: int) -> Targets:
        """The targets over the candidates and then the queue's rows."""
        return self.queue.extend(targets, candidates)

    def push(self, online: AnyEncoder, keys: Tensor, targets: Targets) -> None:
        """After a step: the copy follows the encoder, the keys go into the queue with what says whose positive they are."""
        update_momentum(online, self.slow, self.momentum)
        self.queue.push(keys, items=targets.column_items, groups=targets.column_groups)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, for a checkpoint."""
        found = {f"slow/{name}": tensor for name, tensor in self.slow.state_dict().items()}
        return found | {f"queue/{name}": tensor for name, tensor in self.queue.state_dict().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the state of `tensors()`. Raises `Mismatch` where one is missing or of another shape."""
        for name, own in self.tensors().items():
            found = tensors.get(name)
            if found is None or found.shape != own.shape:
                raise Mismatch(f"checkpoint: it has no {name} of this shape. Train into another folder.")
            own.copy_(found)


def new_past(model: AnyEncoder, config: Config) -> Past | None:
    """An empty queue and a copy of the encoder as it is; None where no queue is asked for."""
    if not config.queue.size:
        return None
    slow = copy.deepcopy(model)
    for parameter in slow.parameters():
        parameter.requires_grad_(False)
    return Past(slow, Queue(config.queue.size, training_width(model)).to(model.device), config.queue.momentum)

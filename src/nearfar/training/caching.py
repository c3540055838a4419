"""Gradient caching: a loss over the whole batch, the encoder in micro-batches, every gradient that of one graph over all of them.

Gao 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (arXiv 2101.06983, section 3.2).

Decisions. Texts are sorted by length and cut by tokens: this changes nothing in the loss, and little is padded. Graphs are kept until a memory budget is
spent and only what lies beyond is encoded twice, so a batch that fits pays nothing. Which graphs are kept changes no bit of the result: each
micro-batch draws its dropout from a seed of its own, and gradients are added up in the same order either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar.encoders.computing import weight_storages
from nearfar.encoders.tokens import cut_padded, lengths_of
from nearfar.training.holding import held
from nearfar.training.memory import free_memory
from nearfar.types import Inputs

Encode = Callable[[Any], Tensor]
"""Differentiable rows of prepared inputs."""
MICRO_TOKENS = 8192
"""Tokens encoded at once: large enough for the multiplies, small enough for the caches."""


class Side(NamedTuple):
    """Inputs of one kind (texts, pictures) and what encodes them."""

    encode: Encode
    inputs: Inputs
    width: int
    """Dimensions of a row."""
    pads: bool = False
    """Whether a micro-batch is padded to its longest text: it is then cut, and its memory reckoned, by rows x longest."""


@dataclass(frozen=True)
class Cached:
    """What a cached step did, beside the gradients it left in the parameters."""

    loss: float
    micro_batches: int
    encoded_twice: int
    """Micro-batches whose graph did not fit the budget."""


def accumulate(
    sides: Sequence[Side],
    loss: Callable[[Sequence[Tensor]], Tensor],
    *,
    seed: int,
    keep_bytes: int | None = None,
    micro_tokens: int = MICRO_TOKENS,
    device: torch.device | None = None,
) -> Cached:
    """Add the gradient of `loss(rows of each side)`, a scalar, to every parameter that the sides' encoders and the loss depend on.

    `keep_bytes` is the memory for graphs of micro-batches (default: `memory_budget()`); the rest is encoded without a graph and once more for its gradient.
    Dropout draws from torch's global generators, seeded by (seed, micro-batch) and put back afterwards. Where the loss is not finite no gradient is added.
    """
    device = device or torch.device("cpu")
    budget = memory_budget(device) if keep_bytes is None else keep_bytes
    parts = [(n, rows) for n, side in enumerate(sides) for rows in micro_batches(side.inputs, micro_tokens, pads=side.pads)]
    shared = {storage for side in sides for storage in weight_storages(side.encode)}
    found = [torch.empty(len(side.inputs), side.width, device=device) for side in sides]
    graphs: list[Tensor | None] = []
    spent, heaviest = 0.0, [0.0 for _ in sides]  # of a unit of weight: texts and pictures differ
    with _own_generators():
        for number, (at, rows) in enumerate(parts):
            inputs = sides[at].inputs.select(rows)
            weight = _weight(inputs, pads=sides[at].pads)
            expected = heaviest[at] * weight
            keeps = spent + expected <= budget if heaviest[at] else budget > spent
            torch.manual_seed(seed + number)
            if keeps:
                with _counting(shared) as counted:
                    made = sides[at].encode(inputs)
                spent, heaviest[at] = spent + counted.bytes, max(heaviest[at], counted.bytes / weight)
            else:
                with torch.no_grad():
                    made = sides[at].encode(inputs)
            graphs.append(made if keeps else None)
            found[at][torch.from_numpy(rows).to(device)] = made.detach()
        leaves = [rows.requires_grad_() for rows in found]
        value = loss(leaves)
        done = Cached(float(value.detach()), len(parts), graphs.count(None))
        if not np.isfinite(done.loss):
            return done
        value.backward()
        for number, (at, rows) in enumerate(parts):
            upstream = leaves[at].grad
            made, graphs[number] = graphs[number], None
            if upstream is None:
                continue
            if made is None:
                torch.manual_seed(seed + number)
                made = sides[at].encode(sides[at].inputs.select(rows))
            if made.requires_grad:
                made.backward(upstream[torch.from_numpy(rows).to(device)])
    return done


def micro_batches(inputs: Inputs, micro_tokens: int, *, pads: bool = False) -> list[np.ndarray]:
    """Row numbers by falling length, cut so that a part holds at most `micro_tokens` tokens (one row at least), padding included where it `pads`."""
    lengths = np.maximum(lengths_of(inputs), 1)
    if pads:
        return list(cut_padded(lengths, micro_tokens))
    order = np.argsort(-lengths, kind="stable")
    before = np.cumsum(lengths[order]) - lengths[order]
    parts: list[np.ndarray] = []
    start = 0
    while start < len(order):
        stop = max(start + 1, int(np.searchsorted(before + lengths[order], before[start] + micro_tokens, side="right")))
        parts.append(order[start:stop])
        start = stop
    return parts


def _weight(inputs: Inputs, *, pads: bool) -> float:
    """What the memory of a graph grows with."""
    lengths = lengths_of(inputs)
    return max(float(len(lengths) * lengths.max() if pads else lengths.sum()), 1.0)


def memory_budget(device: torch.device) -> int:
    """Bytes for graphs unless told otherwise: half of the memory that is free now (what a step freed and holds among it), where the graphs will lie (in a container: of its own)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return (free_memory() + held()) // 2


class _Count:
    """Bytes of distinct storages saved for backward, those of the weights apart."""

    def __init__(self, shared: set[int]) -> None:
        self.bytes, self._seen = 0, set(shared)

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        # the tensor itself would hold its own graph, which then never goes where no gradient passes (a pooler that nobody reads)
        return tensor.detach()


@contextmanager
def _counting(shared: set[int]) -> Iterator[_Count]:
    count = _Count(shared)
    with torch.autograd.graph.saved_tensors_hooks(count.add, lambda tensor: tensor):
        yield count


@contextmanager
def _own_generators() -> Iterator[None]:
    # dropout knows only the global generators: fork them, so that the caller's stay as they were
    # `manual_seed` seeds every device
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield

"""Counted bytes: what a loss keeps for backward, and the largest thing it makes, grow as b + n at a given slab."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nearfar import losses
from nearfar.similarity import slab_rows

ALL = ("query_to_candidate", "candidate_to_query", "query_to_query", "candidate_to_candidate")
D = 8


def labels(n):
    return torch.arange(n) % (n // 4)


LOSSES = {
    "info_nce": lambda q, c: losses.info_nce(q, c, rows_per_slab=4),
    "joint": lambda q, c: losses.info_nce(q, c, directions=ALL, partition="joint", rows_per_slab=4),
    "clip": lambda q, c: losses.clip(q, c, rows_per_slab=4),
    "nt_xent": lambda q, c: losses.nt_xent(q, c, rows_per_slab=4),
    "siglip": lambda q, c: losses.siglip(q, c, rows_per_slab=4),
    "sup_con": lambda q, c: losses.sup_con(q, labels(len(q)), rows_per_slab=4) + 0 * c.sum(),
    "gist": lambda q, c: losses.gist(q, c, q.detach(), c.detach(), rows_per_slab=4),
    "hardest": lambda q, c: losses.batch_triplet(q, labels(len(q)), mining="hardest", rows_per_slab=4) + 0 * c.sum(),
    "semi_hard": lambda q, c: losses.batch_triplet(q, labels(len(q)), mining="semi_hard", rows_per_slab=4) + 0 * c.sum(),
    "all triplets": lambda q, c: losses.batch_triplet(q, labels(len(q)), mining="all", rows_per_slab=4) + 0 * c.sum(),
    "circle": lambda q, c: losses.circle(q, labels(len(q)), rows_per_slab=4) + 0 * c.sum(),
    "hardest_negative": lambda q, c: losses.hardest_negative(q, c, rows_per_slab=4),
    "matryoshka": lambda q, c: losses.matryoshka_info_nce(q, c, dims=(8, 4, 2), rows_per_slab=4),
    "memory": lambda q, c: losses.info_nce(q, c, memory=c.detach(), rows_per_slab=4),
    "bfloat16": lambda q, c: losses.info_nce(q, c, precision="bfloat16", rows_per_slab=4),
    "clip bfloat16": lambda q, c: losses.clip(q, c, precision="bfloat16", rows_per_slab=4),
    "uniformity": lambda q, c: losses.uniformity(q, rows_per_slab=4) + 0 * c.sum(),
}


class Largest(TorchDispatchMode):
    """The most numbers of any tensor an operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1))
        return found


def measure(loss, n):
    """(bytes saved for backward, numbers in the largest tensor) of one step over n pairs."""
    q, c = (F.normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(s)), dim=1).requires_grad_() for s in (0, 1))
    kept = []

    def keep(tensor):
        kept.append(weakref.ref(tensor))  # what a slab saves for itself is gone with the slab
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(q, c)
        alive = [tensor.untyped_storage() for ref in kept if (tensor := ref()) is not None]
        at_rest = sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values())
        value.mean().backward()
    return at_rest, largest.numbers


@pytest.mark.parametrize("name", LOSSES)
def test_bytes_saved_and_the_largest_tensor_grow_with_b_plus_n(name):
    (small, small_largest), (large, large_largest) = measure(LOSSES[name], 64), measure(LOSSES[name], 256)
    assert large <= 4.2 * small  # four times the rows; b x n would be sixteen times
    assert large_largest <= 4.2 * small_largest
    assert large_largest < 256 * 256


def test_a_default_slab_stays_within_its_budget():
    assert slab_rows(65_536) * 65_536 * 4 <= 64 << 20

"""Embeddings of past batches as further columns: a momentum queue (MoCo) or a cross-batch memory (XBM).

He, Fan, Wu, Xie and Girshick 2020 (MoCo, arXiv 1911.05722); Wang, Zhang, Huang and Scott 2020 (XBM, arXiv 1912.06798).

Decisions. A memory is a source of columns, not a loss: it hands out rows and ids, and any loss over slabs takes them as `memory` and
`Targets`. Columns of a memory take no gradient and cost no multiply for one. What is handed out is a copy: a push between forward and
backward changes nothing.
"""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import SlabTargets, Targets


class Queue(nn.Module):
    """The last `size` rows pushed, with their item and group ids; the k-th row ever pushed lies in slot k % size.

    All state is in buffers: a `state_dict` carries it, and a resumed run goes on bit for bit. Rows are kept in float32 unless the module is
    moved (`.double()`). Each step:

        rows = info_nce(queries, keys, queue.extend(targets, len(keys)), memory=queue.rows)
        queue.push(keys, items=items, groups=groups)

    MoCo's eq. 1, where a query meets its own key and the queue but no other key of the batch, is this with
    `Targets(column_owners=torch.arange(len(keys)))` and keys of a momentum encoder (`update_momentum`).
    """

    bank: Tensor
    items: Tensor
    groups: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise BadInput(f"size, dim: expected at least 1 each, found {size} and {dim}.")
        self.register_buffer("bank", torch.zeros(size, dim))
        self.register_buffer("items", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("groups", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """How many rows are held."""
        return min(int(self.pushed), len(self.bank))

    @property
    def rows(self) -> Float[Tensor, "m d"]:
        """A copy of the rows held, by slot."""
        return self.bank[: len(self)].clone()

    @torch.no_grad()
    def push(
        self, rows: Float[Tensor, "k d"], *, items: Int[Tensor, " k"] | None = None, groups: Int[Tensor, " k"] | None = None
    ) -> Int[Tensor, " k"]:
        """Store rows (detached) over the oldest ones; returns the slot of each, -1 for those beyond `size` that newer ones displaced at once.

        Ids below zero, or none, match nothing. Raises `BadInput` for a wrong width, ids that are not one int64 per row, and rows that are not finite.
        """
        size, dim = self.bank.shape
        if rows.ndim != 2 or rows.shape[1] != dim or not rows.is_floating_point():
            raise BadInput(f"rows: expected floating point rows [k, {dim}], found {tuple(rows.shape)} of {rows.dtype}.")
        finite = torch.isfinite(rows).all(dim=1)
        if not bool(finite.all()):
            raise BadInput(
                f"rows: row {int((~finite).nonzero()[0])} holds NaN or infinity and would poison {size} rows of steps to come. "
                "Push only after a finite loss."
            )
        for name, ids in (("items", items), ("groups", groups)):
            if ids is not None and (ids.dtype != torch.int64 or ids.shape != rows.shape[:1]):
                raise BadInput(f"{name}: expected {len(rows)} int64 ids, found {tuple(ids.shape)} of {ids.dtype}.")
        slots = (self.pushed + torch.arange(len(rows), device=self.pushed.device)) % size
        newest = slice(max(0, len(rows) - size), len(rows))
        for kept, new in ((self.bank, rows), (self.items, items), (self.groups, groups)):
            kept[slots[newest]] = -1 if new is None else new.detach()[newest].to(kept)
        self.pushed += len(rows)
        slots[: newest.start] = -1
        return slots

    def extend(self, targets: Targets | None, candidates: int) -> Targets:
        """`targets` over `candidates` columns and then the rows held: what has a row's group, or is its positive's item or its own, is left out.

        A batch without ids of a kind gets -1 in their place; no mask is made where no row could match. The memory's columns are everyone's.
        """
        targets = targets if targets is not None else Targets()
        by_item = targets.row_items is not None or targets.column_items is not None
        return Targets(
            targets.positive,
            targets.row_groups,
            self._beyond("column_groups", targets.column_groups, self.groups, candidates, targets.row_groups is not None),
            targets.row_items,
            self._beyond("column_items", targets.column_items, self.items, candidates, by_item),
            self._beyond("column_owners", targets.column_owners, None, candidates, targets.column_owners is not None),
        )

    def _beyond(self, name: str, ids: Tensor | None, own: Tensor | None, candidates: int, matters: bool) -> Tensor | None:
        if ids is not None and ids.shape != (candidates,):
            raise BadInput(f"targets.{name}: expected {candidates} ids, one per candidate, found shape {tuple(ids.shape)}.")
        if not matters:
            return None
        first = self.items.new_full((candidates,), -1) if ids is None else ids
        held = first.new_full((len(self),), -1) if own is None else own[: len(self)].to(first)
        return torch.cat([first, held])


@spoken()
def cross_batch(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    memory: Float[Tensor, "m d"],
    memory_labels: Int[Tensor, " m"],
    *,
    itself: Int[Tensor, " b"] | None = None,
    temperature: float | Tensor = 0.1,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Supervised contrast of each row against a memory alone (XBM, Wang 2020, arXiv 1912.06798, algorithm 1; Khosla 2020, eq. 2).

    The memory's rows of the row's label are positives, all its rows stand below the line, except column `itself[i]`, where row i itself
    lies (-1: nowhere). As in XBM the batch is pushed first:

        slots = queue.push(rows, groups=labels)
        loss = cross_batch(rows, labels, queue.rows, queue.groups[: len(queue)], itself=slots)

    The memory takes no gradient: two multiplies. Pass unit rows. Raises `BadInput` for a row without a positive in the memory.
    """
    itself = labels.new_full((len(embeddings),), -1) if itself is None else itself
    for name, ids, length in (
        ("labels", labels, len(embeddings)),
        ("itself", itself, len(embeddings)),
        ("memory_labels", memory_labels, len(memory)),
    ):
        if ids.shape != (length,) or ids.is_floating_point():
            raise BadInput(f"{name}: expected {length} integers, found {tuple(ids.shape)} of {ids.dtype}.")
    if bool((itself >= len(memory)).any()):
        raise BadInput(f"itself: found {int(itself.max())}; the memory has {len(memory)} rows, from 0.")
    columns = torch.arange(len(memory), device=memory.device)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        rows = slice(slab.start, slab.start + len(logits))
        own = itself[rows, None] == columns
        positives = (labels[rows, None] == memory_labels) & ~own
        count = positives.sum(dim=1)
        if not bool(count.all()):
            row = int((count == 0).nonzero()[0])
            raise BadInput(
                f"memory_labels: row {slab.start + row} has no positive: no other row of the memory has the label "
                f"{int(labels[slab.start + row])}. Sample at least two of each label and push the batch first, or leave the row out."
            )
        below = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
        return below - torch.where(positives, logits, 0.0).sum(dim=1) / count

    anywhere = Targets(torch.zeros_like(labels, dtype=torch.int64))  # the labels say who is whose positive
    return row_losses(loss, embeddings, memory.detach().to(embeddings), anywhere, temperature=temperature, **slabs)


@torch.no_grad()
def update_momentum(online: nn.Module, target: nn.Module, momentum: float = 0.999) -> None:
    """target = momentum x target + (1 - momentum) x online, parameter by parameter (He 2020, eq. 2); buffers are copied.

    Keep the target in float32: a step of 0.001 is below bfloat16's rounding. Raises `BadInput` where the two are not built alike.
    """
    if not 0 <= momentum <= 1:
        raise BadInput(f"momentum: expected a number from 0 to 1, found {momentum}.")
    for kind, ours, theirs in (
        ("parameter", dict(online.named_parameters()), dict(target.named_parameters())),
        ("buffer", dict(online.named_buffers()), dict(target.named_buffers())),
    ):
        unlike = sorted(ours.keys() ^ theirs.keys()) or [n for n, x in ours.items() if x.shape != theirs[n].shape]
        if unlike:
            raise BadInput(
                f"target: {kind} {unlike[0]!r} is missing on one side or has another shape. Make it by copy.deepcopy(online)."
            )
        for name, new in ours.items():
            if kind == "buffer":
                theirs[name].copy_(new)
            else:
                theirs[name].mul_(momentum).add_(new.to(theirs[name]), alpha=1 - momentum)

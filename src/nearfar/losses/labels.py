"""Losses over (embeddings, labels): who shares a label with whom, a slab of rows at a time; and the check that labels are labels.

Decisions. A row's positives are few: they are gathered by number, out of the columns sorted once by label. Only what concerns all negatives passes
over the whole slab.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.distances import Distance, negative_distance_rows, refuse_bad_rows, unit
from nearfar.similarity.products import FAR
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import SlabTargets


class LabelOptions(SlabOptions, total=False):
    """What every loss over labels can be told besides its own arguments: slabs, and columns from earlier batches."""

    memory: Tensor | None
    """[m, d], further columns without gradient (Wang 2020, cross-batch memory, arXiv 1912.06798)."""
    memory_labels: Tensor | None
    """[m], the labels of `memory`."""


class Pairs(NamedTuple):
    """Of r rows: which columns are of their label, and which of another."""

    labels: Int[Tensor, " r"]
    columns: Int[Tensor, " n"]
    """The label of every column."""
    own: Int[Tensor, " r"]
    """The column that is the row itself."""
    members: Int[Tensor, "r p"]
    """Columns of the row's label, then any: see `is_positive`."""
    is_positive: Bool[Tensor, "r p"]
    """True where `members` is of the row's label and not the row itself."""

    def same(self) -> Bool[Tensor, "r n"]:
        """True where a column is of the row's label, itself included."""
        return self.labels[:, None] == self.columns

    def positives(self, logits: Float[Tensor, "r n"], otherwise: float) -> Float[Tensor, "r p"]:
        """The numbers of a row's positives, and `otherwise` where it has fewer."""
        return logits.gather(1, self.members).masked_fill(~self.is_positive, otherwise)

    def negatives(self, logits: Float[Tensor, "r n"], otherwise: float) -> Float[Tensor, "r n"]:
        """The numbers of a row's negatives, and `otherwise` in all other columns."""
        return logits.masked_fill(self.same(), otherwise)

    def positive_count(self) -> Int[Tensor, " r"]:
        """Positives of each row."""
        return self.is_positive.sum(dim=1)

    def negative_count(self) -> Int[Tensor, " r"]:
        """Negatives of each row."""
        return len(self.columns) - self.positive_count() - 1


LabelLoss = Callable[[Tensor, Pairs], Tensor]
"""How a loss over labels is written: (logits [r, n], the pairs of these rows) -> [r], ordinary differentiable torch."""

Geometry = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows, columns) -> rows and columns whose dot products are the logits."""


def dots(a: Float[Tensor, "b d"], b: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Logits are dot products of rows as they are."""
    return a, b


def cosines(a: Float[Tensor, "b d"], b: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Logits are cosines."""
    left = unit(a)
    return left, left if b is a else unit(b)


def negative_distances(distance: Distance) -> Geometry:
    """Logits are what `similarity.distances.from_logits` turns into distances."""
    return lambda a, b: negative_distance_rows(a, b, distance)


NEAR = 16.0
"""Negative distances reach so far for rows of about unit length; of longer ones bfloat16 would round the norms, and with them the distances."""


def check_labels(labels: Tensor, count: int, device: torch.device, name: str = "labels") -> Int[Tensor, " b"]:
    """`labels` as int64 on `device`; any integers will do. Raises `BadInput` for another length, other kinds, and numbers beyond int64."""
    if labels.shape != (count,):
        raise BadInput(f"{name}: expected {count} integers, one per row, found shape {tuple(labels.shape)}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise BadInput(f"{name}: expected integers, found {labels.dtype} (row 0 is {labels[0].item()}). Number the labels.")
    found = labels.to(device, torch.int64)
    if labels.dtype == torch.uint64 and bool((found < 0).any()):
        row = int((found < 0).nonzero()[0])
        raise BadInput(f"{name}: row {row} is {int(labels[row].item())}, beyond int64. Number the labels from 0.")
    return found


@dataclass(frozen=True)
class _Labels:
    """The labels of b rows and of all n columns, the first b of which are the rows themselves."""

    rows: Int[Tensor, " b"]
    columns: Int[Tensor, " n"]
    order: Int[Tensor, " n"]
    first: Int[Tensor, " b"]
    counts: Int[Tensor, " b"]

    @classmethod
    def of(cls, rows: Tensor, more: Tensor | None, *, needs_negative: bool) -> _Labels:
        columns = rows if more is None else torch.cat([rows, more])
        _, which, counts = columns.unique(return_inverse=True, return_counts=True)
        first, mine = counts.cumsum(0) - counts, which[: len(rows)]
        made = cls(rows, columns, which.argsort(stable=True), first[mine], counts[mine])
        alone = (made.counts < 2).nonzero()
        if len(alone):
            row = int(alone[0])
            raise BadInput(
                f"labels: row {row} has no positive: no other row has the label {int(rows[row])}. "
                "Sample at least two of each label, or leave the row out."
            )
        if needs_negative and len(counts) < 2:
            raise BadInput(
                f"labels: all rows have the label {int(rows[0])}, so none has a negative. Sample at least two labels."
            )
        return made

    def pairs(self, start: int, stop: int) -> Pairs:
        counts = self.counts[start:stop, None]
        place = torch.arange(int(counts.max()), device=counts.device)
        members = self.order[(self.first[start:stop, None] + place).clamp(max=len(self.columns) - 1)]
        own = torch.arange(start, stop, device=counts.device)
        is_positive = (place < counts) & (members != own[:, None])
        return Pairs(self.rows[start:stop], self.columns, own, members, is_positive)


def label_losses(
    row_loss: LabelLoss,
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    geometry: Geometry = dots,
    temperature: float | Tensor = 1.0,
    copies: int = 6,
    far: float = FAR,
    needs_negative: bool = True,
    memory: Float[Tensor, "m d"] | None = None,
    memory_labels: Int[Tensor, " m"] | None = None,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Run a loss over labels in slabs: every row against the batch (itself among the columns) and the memory.

    Raises `BadInput` for labels that are none, a row without a positive and, where the loss `needs_negative`, without a negative.
    """
    refuse_bad_rows(embeddings=embeddings, **({} if memory is None or len(memory) == 0 else {"memory": memory}))
    own = check_labels(labels, len(embeddings), embeddings.device)
    if (memory is None) != (memory_labels is None):
        raise BadInput("memory_labels: expected beside `memory`, one label per row of it. Pass both or neither.")
    more = None
    if memory is not None and memory_labels is not None:
        more = check_labels(memory_labels, len(memory), embeddings.device, "memory_labels")
    table = _Labels.of(own, more, needs_negative=needs_negative)
    rows, columns = geometry(embeddings, embeddings)
    if memory is not None and len(memory) == 0:
        memory = None  # a queue at its first step
    if memory is not None:
        memory = geometry(embeddings.detach(), memory.detach().to(embeddings))[1]

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        return row_loss(logits, table.pairs(slab.start, slab.start + len(logits)))

    return row_losses(loss, rows, columns, temperature=temperature, memory=memory, copies=copies, far=far, **slabs)

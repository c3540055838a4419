"""The nouns: what the whole code base speaks in. Nothing of ours lies below but the errors.

In shapes, b is rows (queries), n columns (candidates), d dimensions, k results. *Similarity* is larger-is-closer
everywhere, and the knob is *temperature* everywhere. torch and numpy are named here, never imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

Role = Literal["query", "document"]
"""What a text is used as: encoders may put another prompt before each."""


class Picture(str):
    """An image as an item of a pair: the name of its place, as text, and how to read its bytes (PNG, JPEG, ...) there.

    It is text, so that it is compared, hashed, printed and written as its name wherever an item is only carried; two pictures of one
    name are one item. Only an encoder with an image tower opens it, and encoders of text refuse it.
    """

    __slots__ = ("_identity", "data", "file", "offset", "size")

    def __new__(
        cls, name: str | Path, *, file: Path | None = None, offset: int = 0, size: int | None = None, data: bytes | None = None
    ) -> Self:
        """`name` is the file itself, or what to call `size` bytes from `offset` of `file` (a member of a tar), or `data` (a table's cell)."""
        made = super().__new__(cls, name)
        made.file, made.offset, made.size, made.data = Path(name) if file is None else file, offset, size, data
        return made

    @property
    def identity(self) -> str:
        """What it is by its bytes, read once: equal for one picture under two names. Its name where they cannot be read."""
        try:
            return self._identity
        except AttributeError:
            pass
        try:
            self._identity = f"sha256:{hashlib.sha256(self.read()).hexdigest()}"
        except OSError:
            return str(self)
        return self._identity

    def read(self) -> bytes:
        """Its encoded bytes. Raises `OSError` where the file is not there."""
        if self.data is not None:
            return self.data
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)


class MinedNegative(NamedTuple):
    """Where a hard negative came from: which search found it, at what place, and how near it is."""

    source: str
    """The search: dense, bm25, ...; `given` for one that was there before."""
    rank: int
    """Its place in that search, from 1, after what can never be a negative was left out; 0 where it was not searched for."""
    score: float | None = None
    """The model's similarity of the query to it; None where there was no model."""
    margin: float | None = None
    """The positive's score less this one: below zero where the negative is nearer."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One training example. Raw items: text, or a `Picture`.

    `negatives` are hard negatives of this query, any number. Pairs of one `group` are never each other's negatives.
    `score` is a graded similarity where the data has one, `source` names where the pair came from. `teacher_scores` are another
    model's scores of the positive and then of each hard negative, where one was asked. `mined` says of each hard negative where it
    came from, or is empty; training does not read it.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    group: str | None = None
    score: float | None = None
    source: str | None = None
    teacher_scores: tuple[float, ...] = ()
    mined: tuple[MinedNegative, ...] = ()

    def with_negatives(
        self, negatives: Iterable[str] = (), *, teacher_scores: Iterable[float] = (), mined: Iterable[MinedNegative] = ()
    ) -> Pair:
        """The same pair with these hard negatives; what was said of others is gone."""
        return replace(self, negatives=tuple(negatives), teacher_scores=tuple(teacher_scores), mined=tuple(mined))


class Inputs(Protocol):
    """Prepared items of one encoder (tokens, pixels): the result of the CPU work, indexable by row."""

    def __len__(self) -> int: ...

    def select(self, rows: np.ndarray) -> Self:
        """The inputs of these rows, in this order; rows may repeat."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Turns items into rows of unit length (unless told otherwise)."""

    @property
    def dim(self) -> int:
        """Width of a row."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        ...

    def prepare(self, items: Sequence[str], role: Role = "document") -> Inputs:
        """The CPU work (prompt, tokenization, truncation), done once per item."""
        ...

    def __call__(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """Differentiable rows of these inputs, in their order."""
        ...

    def fingerprint(self) -> str:
        """`sha256:<hex>` over all that decides its vectors: weights, tokenizer, settings."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that `nearfar.encoders.load_encoder` and sentence-transformers load to the same vectors."""
        ...


@dataclass(frozen=True)
class Batch:
    """The inputs of one step and who is whose positive in it."""

    queries: Inputs
    candidates: Inputs
    targets: Targets
    facts: PairFacts | None = None

    def to(self, device: torch.device) -> Batch:
        """The same with all ids and facts on `device` (inputs are the encoder's to move)."""
        if device.type == "cpu":
            return self
        return replace(self, targets=_moved(self.targets, device), facts=_moved(self.facts, device) if self.facts else None)


@dataclass(frozen=True)
class PairFacts:
    """What is known of the pairs of a batch beyond whose positive is whose; losses look up what they need."""

    query_ids: Int[Tensor, " b"]
    """The number of each query among all distinct queries of the pairs."""
    candidate_ids: Int[Tensor, " n"]
    """The number of each candidate among all distinct documents."""
    negatives: Int[Tensor, "b k"]
    """The columns of each row's own hard negatives, -1 beyond its last; k may be 0."""
    scores: Float[Tensor, " b"] | None = None
    """The graded similarity of each pair, None where one of them has none."""
    teacher_scores: Float[Tensor, "b k+1"] | None = None
    """The teacher's score of the positive and of each hard negative, NaN beyond the last, None where there was no teacher."""
    source: str | None = None
    """Where all pairs of the batch came from, None where they are mixed."""


def _moved(ids: Any, device: torch.device) -> Any:
    import torch

    return replace(ids, **{name: value.to(device) for name, value in vars(ids).items() if isinstance(value, torch.Tensor)})


class SlabTargets(NamedTuple):
    """The targets of r consecutive rows, against all n columns."""

    positive: Int[Tensor, " r"]
    """The column of each row's own positive."""
    valid: torch.Tensor | None
    """Boolean [r, n]: the columns this row is compared with (its own positive always among them); None means all."""
    start: int = 0
    """The number of the first of these rows in the batch, for losses that look up their own facts (labels, a guide's rows)."""


@dataclass(frozen=True)
class Targets:
    """Who is whose positive, and which columns are left out, said by ids: O(b + n) numbers, never a mask of b x n.

    Row i's own positive is column `positive[i]` (default: column i). Any other column j is left out of row i when it is
    known not to be a negative: it has the row's group (`row_groups[i] == column_groups[j] >= 0`), or it is the same item
    as the row's own positive (`column_items[j] == column_items[positive[i]] >= 0`), or the same item as the row itself
    (`row_items[i] == column_items[j] >= 0`), or it is another row's own negative (`column_owners[j] >= 0` and not i). Ids below
    zero match nothing: a column of owner -1 is everyone's. All ids are int64. Columns are candidates, then those of a memory.
    """

    positive: Int[Tensor, " b"] | None = None
    row_groups: Int[Tensor, " b"] | None = None
    column_groups: Int[Tensor, " n"] | None = None
    row_items: Int[Tensor, " b"] | None = None
    column_items: Int[Tensor, " n"] | None = None
    column_owners: Int[Tensor, " n"] | None = None

    def slab(self, start: int, stop: int) -> SlabTargets:
        """The positives and the valid mask of rows `start:stop`; no mask where nothing is left out."""
        import torch

        known = (self.positive, self.row_groups, self.column_items, self.column_owners)
        device = next((t.device for t in known if t is not None), None)
        positive = torch.arange(start, stop, device=device) if self.positive is None else self.positive[start:stop]
        left_out: torch.Tensor | None = None
        matches: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self.row_groups is not None and self.column_groups is not None:
            matches.append((self.row_groups[start:stop], self.column_groups))
        if self.column_items is not None:
            matches.append((self.column_items[positive], self.column_items))
            if self.row_items is not None:
                matches.append((self.row_items[start:stop], self.column_items))
        for rows, cols in matches:
            same = (rows[:, None] == cols[None, :]) & (rows[:, None] >= 0)
            left_out = same if left_out is None else left_out.logical_or_(same)
        if self.column_owners is not None:
            here = torch.arange(start, stop, device=self.column_owners.device)
            others = (self.column_owners[None, :] != here[:, None]) & (self.column_owners >= 0)
            left_out = others if left_out is None else left_out.logical_or_(others)
        if left_out is None:
            return SlabTargets(positive, None, start)
        left_out[torch.arange(stop - start, device=left_out.device), positive] = False
        return SlabTargets(positive, ~left_out if bool(left_out.any()) else None, start)


class Loss(Protocol):
    """A loss over similarities: one number per row, in nats; the caller averages."""

    def __call__(
        self, queries: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"], targets: Targets | None = None
    ) -> Float[Tensor, " b"]: ...


RowLoss = Callable[["Tensor", SlabTargets], "Tensor"]
"""How a similarity loss is written: (logits [r, n], the targets of these rows) -> [r], ordinary differentiable torch."""


@dataclass(frozen=True)
class Hits:
    """What a search found, best first. Row i holds the results of query i.

    `ids` [b, k] int64 are row numbers of the collection searched, -1 where fewer than k were found; `scores` [b, k]
    float32 are similarities (minus infinity beside -1). Equal scores are in order of ascending id.
    """

    ids: np.ndarray
    scores: np.ndarray


class Index(Protocol):
    """Vectors (or terms) that can be searched, with the documents they stand for."""

    @property
    def keys(self) -> Sequence[str]:
        """The document id of each row number."""
        ...

    def add(self, keys: Sequence[str], documents: Sequence[str], vectors: np.ndarray) -> None: ...

    def remove(self, keys: Sequence[str]) -> None: ...

    def search(self, queries: np.ndarray, k: int = 10) -> Hits: ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Task:
    """What evaluation needs: documents, queries, and graded judgements query id -> document id -> grade (> 0 is relevant)."""

    name: str
    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    judgements: Mapping[str, Mapping[str, int]]


Severity = Literal["info", "warning", "critical"]
"""Worth knowing; to be mended; what is concluded with it is wrong."""


class Evidence(NamedTuple):
    """One example of a finding: where it stands (`file:line`) and the text, shortened."""

    where: str
    text: str


@dataclass(frozen=True)
class Finding:
    """One thing that was found wrong (or worth knowing), how much of it there is, and what to do about it.

    `seat` is where the cause lies. `count` of `total` are concerned; where that was estimated instead of counted, `share` is the estimate and
    `low` to `high` its 95 % interval. `remedy` is a command or one sentence.
    """

    code: str
    seat: Literal["data", "model", "retrieval", "workflow"]
    severity: Severity
    what: str
    count: int
    total: int
    share: float
    remedy: str
    low: float | None = None
    high: float | None = None
    examples: tuple[Evidence, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**vars(self), "examples": [example._asdict() for example in self.examples]}


class Progress(Protocol):
    """Called by long work: what is being done, how much of it is done, and facts to show (loss, score). Faces draw it."""

    def __call__(self, stage: str, done: int, total: int, **facts: float | str) -> None: ...


def silent(stage: str, done: int, total: int, **facts: float | str) -> None:
    """The progress of nobody watching."""


@dataclass(frozen=True)
class Checkpoint:
    """A moment of training: what is needed to go on as if nothing had happened.

    `tensors` are weights, optimizer moments and generator states by name; `state` is JSON (step, epoch, best score,
    configuration, history).
    """

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, object] = field(default_factory=dict)

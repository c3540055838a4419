"""What is audited: the pairs and, worked out once and when first asked for, their distinct texts, near copies and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearfar.data.near_duplicates import near_groups
from nearfar.data.text import normalize, shorten
from nearfar.types import Encoder, Evidence, Pair, Picture, Progress, Severity, Task, silent

if TYPE_CHECKING:
    from jaxtyping import Float

EXAMPLES = 3
"""Examples of each finding."""


class Texts(NamedTuple):
    """Texts that are equal after normalization, once: `number[i]` is the number of the i-th text in `distinct` (its first form)."""

    distinct: list[str]
    number: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """The distinct ones of these, in order of their first appearance."""
        known: dict[str, int] = {}
        distinct: list[str] = []
        numbers: list[int] = []
        for text in texts:
            number = known.setdefault(normalize(text), len(known))
            if number == len(distinct):
                distinct.append(text)
            numbers.append(number)
        return cls(distinct, np.array(numbers, np.int64))


class Refused(NamedTuple):
    """A row that is no pair: where it stands and why."""

    where: str
    why: str
    is_picture: bool = False
    """Whether it is one but for a picture that is missing or broken."""


@dataclass(frozen=True)
class Material:
    """Pairs (`where[i]` is `file:line` of `pairs[i]`), the name of their file, and what they are looked at with, where it is there."""

    pairs: Sequence[Pair]
    where: Sequence[str]
    name: str
    task: Task | None = None
    task_name: str = ""
    encoder: Encoder | None = None
    model_name: str = ""
    refused: Sequence[Refused] = ()
    understood: str = ""
    copy: str = ""
    """The cleaned copy as `--fix` was given: remedies name it; where it was not, `cleaned` with the file's own ending."""
    columns: str = ""
    """As `--columns` was given: the commands that remedies name have to say it, too."""
    seed: int = 0
    progress: Progress = silent

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def queries(self) -> Texts:
        """The query of each pair."""
        return Texts.of(pair.query for pair in self.pairs)

    @cached_property
    def documents(self) -> Texts:
        """The positive of each pair, then all hard negatives end to end."""
        return Texts.of([*(p.positive for p in self.pairs), *(n for p in self.pairs for n in p.negatives)])

    @property
    def positives(self) -> np.ndarray:
        """The document number of each pair's positive [n]."""
        return self.documents.number[: len(self.pairs)]

    @property
    def negatives(self) -> np.ndarray:
        """The document number of each hard negative, end to end [m]."""
        return self.documents.number[len(self.pairs) :]

    @cached_property
    def owners(self) -> np.ndarray:
        """The pair of each hard negative [m]."""
        return np.repeat(np.arange(len(self.pairs)), [len(pair.negatives) for pair in self.pairs])

    @cached_property
    def has_pictures(self) -> bool:
        """Whether a query or a document is a picture: then words tell nothing of who belongs to whom."""
        return any(isinstance(item, Picture) for texts in (self.queries, self.documents) for item in texts.distinct)

    @cached_property
    def query_groups(self) -> np.ndarray:
        """The near-copy group of each distinct query."""
        return near_groups(self.queries.distinct)

    @cached_property
    def document_groups(self) -> np.ndarray:
        """The near-copy group of each distinct document."""
        return near_groups(self.documents.distinct)

    @cached_property
    def known(self) -> set[tuple[int, int]]:
        """(query number, document number) of every positive that the file names for a query, by its text or by its group."""
        by_group: dict[str, set[int]] = {}
        for pair, document in zip(self.pairs, self.positives.tolist(), strict=True):
            if pair.group is not None:
                by_group.setdefault(pair.group, set()).add(document)
        found = set(zip(self.queries.number.tolist(), self.positives.tolist(), strict=True))
        for pair, query in zip(self.pairs, self.queries.number.tolist(), strict=True):
            found |= {(query, document) for document in by_group.get(pair.group or "", ())}
        return found

    @cached_property
    def query_rows(self) -> Float[np.ndarray, "q d"]:
        """The rows of the distinct queries. There must be an encoder."""
        return self.embed(self.queries.distinct, "query")

    @cached_property
    def document_rows(self) -> Float[np.ndarray, "m d"]:
        """The rows of the distinct documents. There must be an encoder."""
        return self.embed(self.documents.distinct, "document")

    def embed(self, texts: Sequence[str], role: str) -> Float[np.ndarray, "n d"]:
        """Rows of texts by the encoder, which must be there."""
        from nearfar.embedding import embed

        assert self.encoder is not None
        stage = "encode queries" if role == "query" else "encode documents"
        return embed(self.encoder, texts, role=role, precision="auto", progress=self.progress, stage=stage)  # pyright: ignore[reportArgumentType]

    def show(self, rows: Iterable[int], *, query: bool = True, positive: bool = True) -> tuple[Evidence, ...]:
        """The first few of these pairs, as examples."""
        found: list[Evidence] = []
        for row in rows:
            if len(found) == EXAMPLES:
                break
            pair = self.pairs[row]
            parts = [shorten(pair.query, 60)] * query + [shorten(pair.positive, 60)] * positive
            found.append(Evidence(self.where[row], " -> ".join(parts)))
        return tuple(found)

    def command(self) -> str:
        """The command that looks at the same pairs again, with the same task."""
        from shlex import quote

        columns = f" --columns {quote(self.columns)}" if self.columns else ""
        task = f" --task {quote(self.task_name)}" if self.task_name else ""
        return f"nearfar audit {quote(self.name)}{columns}{task}"

    def fix(self) -> str:
        """The command that writes the cleaned copy; of a folder or shard, which are not copied row by row, what to do instead."""
        from pathlib import Path
        from shlex import quote

        from nearfar.data.formats import SUFFIXES

        name = Path(self.name).name.lower()
        if name.endswith(".tar") or Path(self.name).is_dir():
            what = "write the shard again without them" if name.endswith(".tar") else "move them out of the folder"
            return f"{what}, or list the others in a metadata.csv: a folder or shard is not copied row by row (--fix)"
        ending = next((known for known in SUFFIXES if name.endswith(known)), "".join(Path(self.name).suffixes[-1:]))
        return f"{self.command()} --fix {quote(self.copy or f'cleaned{ending}')}"


def severity_of(low: float, floor: float, many: float) -> Severity:
    """How bad a share is whose lower bound is `low`: a warning from `floor` on, critical from `many` on."""
    return "critical" if low >= many else "warning" if low >= floor else "info"

"""What every index keeps besides its way of searching: keys and documents by row, unit rows, and the model they came from.

Decisions. A row number is a place in the collection and shifts when earlier rows are removed; the key is the lasting name. Every
check runs before the first change, so a refused call leaves the index as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np

from nearfar.errors import BadInput, Mismatch
from nearfar.types import Picture


@dataclass(frozen=True)
class ModelIdentity:
    """The model that made an index's vectors: the name it was loaded by, and its `fingerprint()` (`sha256:<hex>`)."""

    name: str
    fingerprint: str

    def check(self, fingerprint: str, name: str = "another model") -> None:
        """Raise `Mismatch` unless `fingerprint` is this model's; `name` is what the message calls the other one."""
        if fingerprint != self.fingerprint:
            raise Mismatch(
                f"this index was made by {self.name!r} ({_short(self.fingerprint)}), and the queries come from {name} "
                f"({_short(fingerprint)}): their vectors cannot be compared. Search with {self.name!r}, or index the documents "
                "again with the model you want to use."
            )


class IndexedPicture(Picture):
    """A picture as an index keeps it: its name, its place, and a hash of its bytes as they were when its vector was made."""

    __slots__ = ("content",)

    @classmethod
    def of(cls, picture: Picture) -> Self:
        """The picture with the hash of its bytes now. Raises `OSError` where they cannot be read."""
        # bytes that are no file (a cell of a table) are at hand while the index is made; afterwards only their name is kept
        made = cls(str(picture), file=picture.file.absolute(), offset=picture.offset, size=picture.size, data=picture.data)
        made.content = sha256(picture.read()).hexdigest()
        return made

    @classmethod
    def from_json(cls, name: str, place: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        size = place["bytes"]
        made = cls(name, file=Path(place["file"]), offset=int(place["offset"]), size=None if size is None else int(size))
        made.content = str(place["sha256"])
        return made

    def to_json(self) -> dict[str, Any]:
        """Where it lies, and its hash."""
        return {"file": str(self.file), "offset": self.offset, "bytes": self.size, "sha256": self.content}


class Records:
    """Keys and documents by row number, and the row of each key."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.documents: list[str] = []
        self.row_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def check_new(self, keys: Sequence[str], documents: Sequence[str], *, replacing: bool = False) -> None:
        """Raise `BadInput` unless these can be added: as many documents as keys, all text, no key twice or (but for `replacing`) known."""
        if isinstance(keys, str) or isinstance(documents, str):
            raise BadInput("keys, documents: expected two lists of texts, found one text. Put it in a list: [text].")
        if len(keys) != len(documents):
            raise BadInput(
                f"keys, documents: found {len(keys)} keys and {len(documents)} documents. Give one document per key."
            )
        seen: set[str] = set()
        for row, (key, document) in enumerate(zip(keys, documents, strict=True)):
            for what, text in (("key", key), ("document", document)):
                _check_text(what, row, key, text)
            if key in seen:
                raise BadInput(
                    f"key {key!r} is given twice (again in row {row}). Keys name one document each: drop one of them."
                )
            if key in self.row_of and not replacing:
                raise BadInput(
                    f"key {key!r} (row {row}) is in the index already. Use `upsert` to replace it, or `remove` it first."
                )
            seen.add(key)

    def append(self, keys: Sequence[str], documents: Sequence[str]) -> None:
        """Add checked records after the last row."""
        for key in keys:
            self.row_of[key] = len(self.row_of)
        self.keys.extend(keys)
        self.documents.extend(documents)

    def known(self, keys: Sequence[str]) -> list[str]:
        """Those of `keys` that are in the index."""
        return [key for key in keys if key in self.row_of]

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """The distinct rows of these keys, ascending, int64. Raises `BadInput` for an unknown key."""
        if isinstance(keys, str):
            raise BadInput("keys: expected a list of keys, found one text. Put it in a list: [key].")
        for key in keys:
            if key not in self.row_of:
                raise BadInput(
                    f"key {key!r} is not in the index ({len(self)} documents). Check its spelling against `index.keys`."
                )
        return np.unique(np.array([self.row_of[key] for key in keys], dtype=np.int64))

    def replace(self, documents: Mapping[str, str]) -> None:
        """Put other documents in the place of those of known keys. Raises `BadInput` for an unknown key, and then replaces none."""
        self.rows(list(documents))
        for key, document in documents.items():
            self.documents[self.row_of[key]] = document

    def drop(self, rows: np.ndarray) -> None:
        """Remove these rows; later rows move up."""
        gone = set(rows.tolist())
        self.keys = [key for row, key in enumerate(self.keys) if row not in gone]
        self.documents = [text for row, text in enumerate(self.documents) if row not in gone]
        self.row_of = {key: row for row, key in enumerate(self.keys)}


class Rows:
    """Vectors [n, dim] float32 that grow by doubling, so that adding one by one costs what adding at once does."""

    def __init__(self, dim: int, vectors: np.ndarray | None = None) -> None:
        if dim < 1:
            raise BadInput(f"dim: expected at least 1, found {dim}.")
        self.dim = dim
        self._space = np.empty((0, dim), dtype=np.float32) if vectors is None else vectors
        self._count = len(self._space)

    def __len__(self) -> int:
        return self._count

    @property
    def array(self) -> np.ndarray:
        """The vectors in use [n, dim]: a view, to read."""
        return self._space[: self._count]

    def append(self, vectors: np.ndarray) -> None:
        """Add checked vectors after the last row."""
        needed = self._count + len(vectors)
        if needed > len(self._space):
            space = np.empty((max(needed, 2 * self._count) if self._count else needed, self.dim), dtype=np.float32)
            space[: self._count] = self.array
            self._space = space
        self._space[self._count : needed] = vectors
        self._count = needed

    def drop(self, rows: np.ndarray) -> None:
        """Remove these rows; later rows move up."""
        self._space = np.delete(self.array, rows, axis=0)
        self._count = len(self._space)


def check_vectors(vectors: np.ndarray, dim: int, what: str, names: Sequence[str] | None = None) -> np.ndarray:
    """These vectors as float32 [b, dim]; `Mismatch` for another shape, `BadInput` naming the first row that is not finite."""
    found = np.asarray(vectors)
    if found.ndim != 2 or found.shape[1] != dim:
        first = f" (row 0, {names[0]!r})" if names else ""
        raise Mismatch(
            f"{what}{first}: found shape {found.shape}, and this index holds rows of {dim} numbers: expected [b, {dim}]. "
            "Embed with the model that the index was made with."
        )
    if names is not None and len(found) != len(names):
        raise BadInput(f"{what}: found {len(found)} vectors for {len(names)} keys. Give one vector per key.")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(found, dtype=np.float32)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        name = f" ({names[row]!r})" if names else ""
        raise BadInput(f"{what}: row {row}{name} has a number that is not finite. Embed it again, or leave it out.")
    return found


def check_k(k: int) -> None:
    """Raise `BadInput` for k < 1."""
    if k < 1:
        raise BadInput(f"k: expected at least 1, found {k}.")


def _check_text(what: str, row: int, key: object, text: object) -> None:
    if not isinstance(text, str):
        raise BadInput(f"{what} of row {row} ({key!r}): expected text, found {type(text).__name__}. Turn it into a str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{what} of row {row} ({key!r}) is not valid Unicode ({error.reason}). Clean the text first.") from error


def _short(fingerprint: str) -> str:
    return fingerprint if len(fingerprint) <= 20 else f"{fingerprint[:19]}…"

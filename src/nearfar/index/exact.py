"""Every query compared with every document, a slab at a time: the answer that other indexes are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from nearfar.errors import Damaged
from nearfar.index.folder import VECTORS, Stored, save_folder
from nearfar.index.records import ModelIdentity, Records, Rows, check_k, check_vectors
from nearfar.similarity import topk
from nearfar.types import Hits


class ExactIndex:
    """The k documents of largest dot product with each query, exactly. Search O(b n d), memory the vectors and one slab."""

    kind = "exact"

    def __init__(self, dim: int, model: ModelIdentity) -> None:
        """An empty index of rows of `dim` numbers made by `model`."""
        self.model = model
        self._records, self._rows = Records(), Rows(dim)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self._rows.dim

    @property
    def keys(self) -> Sequence[str]:
        """The document id of each row number."""
        return self._records.keys

    @property
    def documents(self) -> Sequence[str]:
        """The document of each row number."""
        return self._records.documents

    def check_model(self, fingerprint: str, name: str = "another model") -> None:
        """Raise `Mismatch` unless `fingerprint` is that of the model that made this index."""
        self.model.check(fingerprint, name)

    def add(self, keys: Sequence[str], documents: Sequence[str], vectors: np.ndarray) -> None:
        """Add documents with their vectors [b, dim], after the last row.

        Raises `BadInput` for a key that is known or given twice, and for a row that is not finite, `Mismatch` for another
        width; the index is then as it was.
        """
        self._records.check_new(keys, documents)
        found = check_vectors(vectors, self.dim, "vectors", keys)
        self._records.append(keys, documents)
        self._rows.append(found)

    def upsert(self, keys: Sequence[str], documents: Sequence[str], vectors: np.ndarray) -> None:
        """As `add`, but known keys are replaced (and move to the end). Raises as `add`."""
        self._records.check_new(keys, documents, replacing=True)
        found = check_vectors(vectors, self.dim, "vectors", keys)
        self.remove(self._records.known(keys))
        self.add(keys, documents, found)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove documents; later rows move up. Raises `BadInput` for an unknown key, and then removes none."""
        rows = self._records.rows(keys)
        self._records.drop(rows)
        self._rows.drop(rows)

    def replace_documents(self, documents: Mapping[str, str]) -> None:
        """Keep other documents (key -> document) with the vectors that are there. Raises `BadInput` for an unknown key."""
        self._records.replace(documents)

    def search(self, queries: np.ndarray, k: int = 10) -> Hits:
        """The k rows of largest dot product with each of `queries` [b, dim], ties by ascending row, -1 beyond the last.

        Raises `BadInput` for k < 1 or a query that is not finite, `Mismatch` for another width.
        """
        check_k(k)
        return topk(check_vectors(queries, self.dim, "queries"), self._rows.array, k)

    def save(self, folder: Path | str) -> None:
        """Write the index to `folder`, whole or not at all, in place of an index that is there. Raises `BadInput` for other content."""
        save_folder(folder, self.kind, self._records, self._fill, dim=self.dim, model=self.model)

    def _fill(self, target: Path) -> None:
        np.save(target / VECTORS, self._rows.array, allow_pickle=False)

    @classmethod
    def restore(cls, stored: Stored) -> Self:
        """The index in a folder that `read_folder` found whole. Raises `Damaged` where its parts disagree."""
        if stored.model is None:
            raise Damaged(f"{stored.path}: names no model, which an index of vectors needs. Index the documents again.")
        index = cls(stored.dim, stored.model)
        index._records = stored.records()
        index._rows = Rows(stored.dim, stored.array(VECTORS, (stored.count, stored.dim), np.float32))
        return index

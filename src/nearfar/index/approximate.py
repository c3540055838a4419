"""Neighbours by walking a graph instead of comparing with all: fast, nearly complete, and with true scores.

A hierarchical navigable small world (Malkov 2018, arXiv 1603.09320) by usearch proposes candidates on half-precision copies; their
scores are then computed from the float32 vectors. What it returns is scored exactly; what it misses is measured by recall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from usearch.index import Index as UsearchIndex
from usearch.index import Matches

from nearfar.errors import BadInput, Damaged
from nearfar.index.folder import VECTORS, Stored, save_folder
from nearfar.index.records import ModelIdentity, Records, Rows, check_k, check_vectors
from nearfar.similarity import slab_ranges, slab_rows, topk
from nearfar.types import Hits

GRAPH, LABELS = "graph.usearch", "labels.npy"
_LENGTH_ERROR = 1e-2
"""How far from 1 the length of a row may be: half-precision encoders are within it."""


@dataclass(frozen=True)
class Graph:
    """How the graph is built and walked. More of each is better recall and more time."""

    connectivity: int = 16
    """Edges per document and layer (M in the paper)."""
    expansion_add: int = 128
    """Candidates kept while a document is inserted (efConstruction)."""
    expansion_search: int = 128
    """Candidates kept while searching (ef), and the least number that is scored exactly."""
    threads: int = 1
    """Threads that insert; 0 means all cores. With 1 the same additions build the same graph, and every document is reached.

    With more, usearch builds faster and leaves about one document in a thousand without an edge to it: never found by the graph.
    """


class ApproximateIndex:
    """The k documents of nearly the largest dot product with each query, for unit rows. Search about O(b log n d)."""

    kind = "approximate"

    def __init__(self, dim: int, model: ModelIdentity, *, graph: Graph | None = None) -> None:
        """An empty index of unit rows of `dim` numbers made by `model`; `graph` defaults to `Graph()`."""
        self.model = model
        self.graph = graph or Graph()
        self._records, self._rows = Records(), Rows(dim)
        # the graph knows documents by labels that never change; ascending with the rows, so a label finds its row by bisection
        self._labels = np.empty(0, dtype=np.int64)
        self._next_label = 0
        self._removed = 0
        self._walk = self._empty_graph()

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
        """Add documents with their vectors [b, dim] of length one (or zero), after the last row.

        Raises `BadInput` for a key that is known or given twice, for a row that is not finite or of another length, `Mismatch`
        for another width; the index is then as it was.
        """
        self._records.check_new(keys, documents)
        found = self._check_units(vectors, keys)
        labels = np.arange(self._next_label, self._next_label + len(found), dtype=np.int64)
        self._insert(labels, found)
        self._records.append(keys, documents)
        self._rows.append(found)
        self._labels = np.concatenate([self._labels, labels])
        self._next_label += len(found)

    def upsert(self, keys: Sequence[str], documents: Sequence[str], vectors: np.ndarray) -> None:
        """As `add`, but known keys are replaced (and move to the end). Raises as `add`."""
        self._records.check_new(keys, documents, replacing=True)
        found = self._check_units(vectors, keys)
        self.remove(self._records.known(keys))
        self.add(keys, documents, found)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove documents; later rows move up. Raises `BadInput` for an unknown key, and then removes none.

        The graph is built anew once more than a third of what it held was removed: holes cost recall.
        """
        rows = self._records.rows(keys)
        if not len(rows):
            return
        self._walk.remove(self._labels[rows].astype(np.uint64))
        self._records.drop(rows)
        self._rows.drop(rows)
        self._labels = np.delete(self._labels, rows)
        self._removed += len(rows)
        if 2 * self._removed > len(self):
            self._walk, self._removed = self._empty_graph(), 0
            self._insert(self._labels, self._rows.array)

    def replace_documents(self, documents: Mapping[str, str]) -> None:
        """Keep other documents (key -> document) with the vectors that are there. Raises `BadInput` for an unknown key."""
        self._records.replace(documents)

    def search(self, queries: np.ndarray, k: int = 10) -> Hits:
        """Nearly the k rows of largest dot product with each of `queries` [b, dim], ties by ascending row, -1 beyond the last.

        Scores are the dot products of the float32 vectors. A query for which the graph proposes too few is compared with all
        documents, so up to `expansion_search` documents the answer is exact.
        Raises `BadInput` for k < 1 or a query that is not finite, `Mismatch` for another width.
        """
        check_k(k)
        wanted = check_vectors(queries, self.dim, "queries")
        ids = np.full((len(wanted), k), -1, dtype=np.int64)
        scores = np.full((len(wanted), k), -np.inf, dtype=np.float32)
        width = min(len(self), max(2 * k, self.graph.expansion_search))
        for start, stop in slab_ranges(len(wanted) if len(self) else 0, slab_rows(width * self.dim)):
            part = wanted[start:stop]
            rows = self._candidates(part, width)
            found = self._score(part, rows, min(k, len(self)))
            short = (rows < 0).any(axis=1)
            if short.any():
                whole = topk(part[short], self._rows.array, found.ids.shape[1])
                found.ids[short], found.scores[short] = whole.ids, whole.scores
            ids[start:stop, : found.ids.shape[1]] = found.ids
            scores[start:stop, : found.ids.shape[1]] = found.scores
        return Hits(ids, scores)

    def save(self, folder: Path | str) -> None:
        """Write the index to `folder`, whole or not at all, in place of an index that is there. Raises `BadInput` for other content."""
        settings = asdict(self.graph) | {"next_label": self._next_label, "removed": self._removed}
        save_folder(folder, self.kind, self._records, self._fill, dim=self.dim, model=self.model, settings=settings)

    @classmethod
    def restore(cls, stored: Stored) -> Self:
        """The index in a folder that `read_folder` found whole. Raises `Damaged` where its parts disagree."""
        if stored.model is None:
            raise Damaged(f"{stored.path}: names no model, which an index of vectors needs. Index the documents again.")
        settings = dict(stored.settings)
        next_label, removed = settings.pop("next_label"), settings.pop("removed")
        index = cls(stored.dim, stored.model, graph=Graph(**settings))
        index._records = stored.records()
        index._rows = Rows(stored.dim, stored.array(VECTORS, (stored.count, stored.dim), np.float32))
        index._labels = stored.array(LABELS, (stored.count,), np.int64)
        index._next_label, index._removed = next_label, removed
        path = stored.file(GRAPH)
        try:
            index._walk.load(path)
        except RuntimeError as error:
            raise Damaged(f"{path}: usearch cannot read it ({error}). Index the documents again.") from error
        stored.check_count(path, len(index._walk))
        return index

    def _fill(self, target: Path) -> None:
        np.save(target / VECTORS, self._rows.array, allow_pickle=False)
        np.save(target / LABELS, self._labels, allow_pickle=False)
        self._walk.save(target / GRAPH)

    def _empty_graph(self) -> UsearchIndex:
        g = self.graph
        return UsearchIndex(
            ndim=self.dim,
            metric="ip",
            dtype="f16",
            connectivity=g.connectivity,
            expansion_add=g.expansion_add,
            expansion_search=g.expansion_search,
        )

    def _insert(self, labels: np.ndarray, vectors: np.ndarray) -> None:
        if len(labels):
            self._walk.add(labels.astype(np.uint64), vectors, threads=self.graph.threads)

    def _candidates(self, queries: np.ndarray, width: int) -> np.ndarray:
        """The rows [b, width] that the graph proposes, -1 where it proposes fewer."""
        found = self._walk.search(queries, width)
        if isinstance(found, Matches):  # usearch answers a batch of one with another type
            labels, counts = found.keys[None, :], np.array([len(found.keys)])
        else:
            labels, counts = found.keys, found.counts
        rows = np.full((len(queries), width), -1, dtype=np.int64)
        given = np.arange(labels.shape[1]) < counts[:, None]  # [b, found]
        rows[:, : labels.shape[1]][given] = np.searchsorted(self._labels, labels[given].astype(np.int64))
        return rows

    def _score(self, queries: np.ndarray, rows: np.ndarray, k: int) -> Hits:
        """The best k of the candidate `rows` [b, m] by float32 dot product, ties by ascending row."""
        scores = np.matmul(self._rows.array[rows], queries[:, :, None])[:, :, 0]  # [b, m]
        scores[rows < 0] = -np.inf
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return Hits(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))

    def _check_units(self, vectors: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        found = check_vectors(vectors, self.dim, "vectors", keys)
        lengths = np.linalg.norm(found, axis=1)
        wrong = (np.abs(lengths - 1) > _LENGTH_ERROR) & (lengths > 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise BadInput(
                f"vectors: row {row} ({keys[row]!r}) has length {lengths[row]:.4g}, and the graph needs unit rows. Divide each row "
                "by its length, or use an exact index."
            )
        return found

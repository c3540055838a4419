"""From texts to found texts: build an index of a corpus with an encoder, and search it with the same encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nearfar.errors import BadInput, Mismatch
from nearfar.index.lexical import LexicalIndex
from nearfar.index.records import ModelIdentity
from nearfar.types import Encoder, Progress, silent

if TYPE_CHECKING:
    import numpy as np

    from nearfar.index.approximate import ApproximateIndex
    from nearfar.index.exact import ExactIndex

Kind = Literal["exact", "approximate", "lexical"]
"""The kinds of index by name."""


@dataclass(frozen=True)
class SearchResult:
    """One document that was found: its id, its similarity to the query (larger is closer), its text."""

    id: str
    score: float
    text: str


def build_index(
    encoder: Encoder | None,
    corpus: Mapping[str, str],
    *,
    kind: Kind = "exact",
    name: str = "",
    progress: Progress = silent,
) -> ExactIndex | ApproximateIndex | LexicalIndex:
    """Index a corpus (document id -> text), embedded by `encoder` (None where `kind` is "lexical").

    `name` is what a mismatch will call the encoder, best what it is loaded by. Memory: the vectors [n, d] twice while building.
    Raises `BadInput` for an unknown kind, and for an encoder that is missing or of no use.
    """
    keys, documents = list(corpus), list(corpus.values())
    if kind not in ("exact", "approximate", "lexical"):
        raise BadInput(f"kind: found {kind!r}. Choose exact, approximate or lexical.")
    if kind == "lexical":
        if encoder is not None:
            raise BadInput("encoder: a lexical index has no vectors. Pass None, or choose the kind exact or approximate.")
        return LexicalIndex.build(keys, documents)
    if encoder is None:
        raise BadInput(
            f"encoder: an index of kind {kind!r} needs one to embed the documents. Pass it, or choose the kind lexical."
        )
    from nearfar.embedding import embed
    from nearfar.index.approximate import ApproximateIndex
    from nearfar.index.exact import ExactIndex

    model = ModelIdentity(name or type(encoder).__name__, encoder.fingerprint())
    index = (ExactIndex if kind == "exact" else ApproximateIndex)(encoder.dim, model)
    index.add(keys, documents, embed(encoder, documents, role="document", progress=progress, stage="index"))
    return index


def search(
    index: ExactIndex | ApproximateIndex | LexicalIndex, encoder: Encoder | None, queries: Sequence[str], k: int = 10
) -> list[list[SearchResult]]:
    """The k best documents of each query text, best first; fewer where fewer were found.

    `encoder` is the one the index was made with, None for a lexical index. Raises `Mismatch` where it is another, `BadInput` where
    it is missing, k < 1, or `queries` is one text instead of a list.
    """
    if isinstance(queries, str):
        raise BadInput("queries: expected a list of texts, found one text. Put it in a list: [text].")
    if isinstance(index, LexicalIndex):
        if encoder is not None:
            raise Mismatch("this index is lexical: it compares words, not vectors. Search it with encoder=None.")
        hits = index.search(queries, min(k, max(1, len(index.keys))))
    else:
        if encoder is None:
            raise BadInput(f"encoder: this index holds vectors of {index.model.name!r}. Load that model and pass it.")
        index.check_model(encoder.fingerprint(), type(encoder).__name__)
        from nearfar.embedding import embed

        # no more places than documents: a million asked for are a million columns
        hits = index.search(embed(encoder, queries, role="query"), min(k, max(1, len(index.keys))))
    return [_results(index, ids, scores) for ids, scores in zip(hits.ids, hits.scores, strict=True)]


def _results(index: ExactIndex | ApproximateIndex | LexicalIndex, ids: np.ndarray, scores: np.ndarray) -> list[SearchResult]:
    rows = [int(row) for row in ids if row >= 0]
    return [SearchResult(index.keys[row], float(scores[i]), index.documents[row]) for i, row in enumerate(rows)]

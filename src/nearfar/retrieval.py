"""From items to found items: build an index of texts or pictures with an encoder, bring it up to date, search it with the same encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from nearfar.data.pictures import unreadable
from nearfar.errors import BadInput, Mismatch
from nearfar.index.lexical import LexicalIndex
from nearfar.index.records import IndexedPicture, ModelIdentity
from nearfar.types import Encoder, Picture, Progress, silent

if TYPE_CHECKING:
    import numpy as np

    from nearfar.index.approximate import ApproximateIndex
    from nearfar.index.exact import ExactIndex

Kind = Literal["exact", "approximate", "lexical"]
"""The kinds of index by name."""


@dataclass(frozen=True)
class SearchResult:
    """One document that was found: its id, its similarity to the query (larger is closer), its text (or `Picture`)."""

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
    """Index a corpus (document id -> text or `Picture`), embedded by `encoder` (None where `kind` is "lexical").

    Pictures are kept by name, place and a hash of their bytes, not copied. `name` is what a mismatch will call the encoder, best what it is loaded by. Memory: the vectors [n, d] twice while building.
    Raises `BadInput` for an unknown kind, for an encoder that is missing or of no use, and for a picture that cannot be read.
    """
    corpus = {key: _kept(item) for key, item in corpus.items()}
    keys, documents = list(corpus), list(corpus.values())
    if kind not in ("exact", "approximate", "lexical"):
        raise BadInput(f"kind: found {kind!r}. Choose exact, approximate or lexical.")
    if kind == "lexical":
        if encoder is not None:
            raise BadInput("encoder: a lexical index has no vectors. Pass None, or choose the kind exact or approximate.")
        if picture := next((item for item in documents if isinstance(item, Picture)), None):
            raise BadInput(
                f"{picture}: a picture, and a lexical index compares words. Index pictures with a model that sees them."
            )
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


class Update(NamedTuple):
    """How many documents of an index stayed as they were, came new, were replaced because they changed, and went."""

    kept: int
    added: int
    changed: int
    removed: int


def update_index(
    index: ExactIndex | ApproximateIndex, encoder: Encoder, corpus: Mapping[str, str], *, progress: Progress = silent
) -> Update:
    """Make an index one of exactly this corpus (document id -> text or `Picture`), encoding only what is new or changed.

    A text is changed where it differs, a picture where the bytes of its file do; a picture that only moved keeps its vector and gets its new
    place. What is new stands after what stayed, so equal scores may be in another order than in an index built at once. Raises `Mismatch`
    where the encoder is not the index's own, otherwise as `build_index`.
    """
    from nearfar.embedding import embed

    index.check_model(encoder.fingerprint(), type(encoder).__name__)
    items = {key: _kept(item) for key, item in corpus.items()}
    before = dict(zip(index.keys, index.documents, strict=True))
    gone = [key for key in before if key not in items]
    added = [key for key in items if key not in before]
    same = unchanged(index, items)
    changed = [key for key in items if key in before and key not in same]
    renewed = [*changed, *added]
    rows = embed(encoder, [items[key] for key in renewed], role="document", progress=progress, stage="index")
    index.remove(gone)
    index.upsert(renewed, [items[key] for key in renewed], rows)
    index.replace_documents({key: item for key, item in items.items() if key in before and isinstance(item, IndexedPicture)})
    return Update(len(items) - len(renewed), len(added), len(changed), len(gone))


def keep_picture(picture: Picture) -> IndexedPicture:
    """A picture as an index keeps it, with a hash of its bytes. Raises `BadInput` where they cannot be read."""
    if isinstance(picture, IndexedPicture):
        return picture
    try:
        return IndexedPicture.of(picture)
    except OSError as error:
        raise unreadable(picture, error) from error


def unchanged(index: ExactIndex | ApproximateIndex, items: Mapping[str, str]) -> set[str]:
    """The keys of those items (texts, or pictures as `keep_picture` gives them) that the index holds as they are."""
    before = dict(zip(index.keys, index.documents, strict=True))
    return {key for key, item in items.items() if key in before and _is_same(before[key], item)}


def _kept(item: str) -> str:
    return keep_picture(item) if isinstance(item, Picture) else item


def _is_same(before: str, now: str) -> bool:
    if isinstance(before, IndexedPicture) and isinstance(now, IndexedPicture):
        return before.content == now.content
    return before == now and isinstance(before, Picture) == isinstance(now, Picture)


def search(
    index: ExactIndex | ApproximateIndex | LexicalIndex, encoder: Encoder | None, queries: Sequence[str], k: int = 10
) -> list[list[SearchResult]]:
    """The k best documents of each query (a text or, where the encoder sees, a `Picture`), best first; fewer where fewer were found.

    `encoder` is the one the index was made with, None for a lexical index. Raises `Mismatch` where it is another, `BadInput` where
    it is missing, k < 1, or `queries` is one text instead of a list.
    """
    if isinstance(queries, str):
        raise BadInput("queries: expected a list of texts, found one text. Put it in a list: [text].")
    if isinstance(index, LexicalIndex):
        if encoder is not None:
            raise Mismatch("this index is lexical: it compares words, not vectors. Search it with encoder=None.")
        if picture := next((query for query in queries if isinstance(query, Picture)), None):
            raise Mismatch(
                f"{picture}: a picture, and this index is lexical: it compares words. Search an index of vectors with it."
            )
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

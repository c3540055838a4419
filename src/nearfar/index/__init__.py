"""Indexes: documents found again by vector (exact, approximate) or by term, kept in one folder. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.index.approximate import ApproximateIndex, Graph
    from nearfar.index.exact import ExactIndex
    from nearfar.index.kinds import open_index
    from nearfar.index.lexical import LexicalIndex
    from nearfar.index.records import IndexedPicture, ModelIdentity

__all__ = ["ApproximateIndex", "ExactIndex", "Graph", "IndexedPicture", "LexicalIndex", "ModelIdentity", "open_index"]

_HOMES = {
    "ApproximateIndex": "approximate",
    "ExactIndex": "exact",
    "Graph": "approximate",
    "IndexedPicture": "records",
    "LexicalIndex": "lexical",
    "ModelIdentity": "records",
    "open_index": "kinds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

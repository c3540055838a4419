"""What searches found, as one self-contained page: pictures as a sheet of thumbnails, texts as a list."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from nearfar.files import atomic_file
from nearfar.report.grid import shown
from nearfar.report.page import MOST_TEXT, html_page
from nearfar.report.thumbnails import Thumbnails
from nearfar.types import Picture

_SIDE = 130


class Found(NamedTuple):
    """One result: its id in the index, its score, and the document (text or `Picture`)."""

    id: str
    score: float
    item: str


class Searched(NamedTuple):
    """A query (text or `Picture`) and what it found, best first."""

    query: str
    results: Sequence[Found]


def write_results(path: Path, searches: Sequence[Searched], *, index: str) -> None:
    """Write the page atomically. `index` is where was searched, for the subtitle."""
    thumbnails = Thumbnails(_SIDE)
    count = sum(len(search.results) for search in searches)
    body = "\n".join(_search(search, thumbnails) for search in searches)
    with atomic_file(path, "w") as handle:
        handle.write(html_page("nearfar search", f"{index}: {count:,} results of {len(searches):,} searches", body))


def _search(search: Searched, thumbnails: Thumbnails) -> str:
    head = f'<h2 dir="auto">{escape(search.query)}</h2>'
    if isinstance(search.query, Picture):
        head += f'<div class="ask">{shown(search.query, thumbnails)}</div>'
    if not search.results:
        return f'<section>{head}<p class="soft">Nothing found.</p></section>'
    if all(isinstance(found.item, Picture) for found in search.results):
        tiles = "".join(
            f'<li>{shown(found.item, thumbnails)}<b>{place}. {found.score:.3f}</b> <span title="{escape(_place(found), quote=True)}">'
            f"{escape(found.id)}</span></li>"
            for place, found in enumerate(search.results, 1)
        )
        return f'<section>{head}<ol class="sheet">{tiles}</ol></section>'
    lines = "".join(
        f'<li><span class="score">{place}. {found.score:.3f}</span>{_document(found, thumbnails)}</li>'
        for place, found in enumerate(search.results, 1)
    )
    return f'<section>{head}<ol class="found">{lines}</ol></section>'


def _document(found: Found, thumbnails: Thumbnails) -> str:
    if isinstance(found.item, Picture):
        return f"{shown(found.item, thumbnails)}<span>{escape(found.id)}</span>"
    text = found.item if len(found.item) <= MOST_TEXT else found.item[:MOST_TEXT] + "…"
    return f'<div><b>{escape(found.id)}</b><blockquote dir="auto">{escape(text)}</blockquote></div>'


def _place(found: Found) -> str:
    return str(found.item.file) if isinstance(found.item, Picture) else found.id

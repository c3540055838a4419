"""Rows of pictures: a query, what it found, right answers framed in another colour."""

from __future__ import annotations

from html import escape

from nearfar.report.facts import Grid, GridRow, Tile
from nearfar.report.thumbnails import Thumbnails
from nearfar.types import Picture

MOST_TEXT = 120
"""Characters of a text in a grid."""


def render_grid(grid: Grid, thumbnails: Thumbnails) -> str:
    """A section of rows; without any it says so. All text is escaped."""
    rows = "".join(_row(row, thumbnails) for row in grid.rows) or '<p class="soft">None.</p>'
    return f'<section><h2>{escape(grid.title)}</h2><p class="soft">{escape(grid.caption)}</p>{rows}</section>'


def _row(row: GridRow, thumbnails: Thumbnails) -> str:
    tiles = "".join(_tile(tile, thumbnails) for tile in row.tiles)
    said = f'<span class="soft">{escape(row.said)}</span>'
    return f'<div class="row"><div class="ask">{shown(row.query, thumbnails)}{said}</div><div class="tiles">{tiles}</div></div>'


def _tile(tile: Tile, thumbnails: Thumbnails) -> str:
    return (
        f'<div class="tile {tile.mark}">{shown(tile.item, thumbnails)}<span dir="auto">{escape(_cut(tile.below))}</span></div>'
    )


def shown(item: str, thumbnails: Thumbnails) -> str:
    """A picture as a thumbnail, a text as bold text."""
    return thumbnails.html(item) if isinstance(item, Picture) else f'<b dir="auto">{escape(_cut(item))}</b>'


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"

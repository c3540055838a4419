"""Small pictures for a page: each drawn once, as a data URI, so that a page is one file and its size is known beforehand."""

from __future__ import annotations

import base64
import io
from html import escape

from nearfar.data.pictures import decode
from nearfar.errors import BadInput
from nearfar.types import Picture

SIDE = 72
"""Pixels of a side."""
MOST = 600
"""Thumbnails of one page; those after them are named only. A page of so many photographs is about two megabytes."""


class Thumbnails:
    """The pictures of one page."""

    def __init__(self, side: int = SIDE, most: int = MOST) -> None:
        self._side, self._most = side, most
        self._made: dict[str, str | None] = {}

    def html(self, picture: Picture) -> str:
        """An `img` of the picture's middle square, or a tile that says it is gone; its name is read out and shown on hover."""
        name = escape(str(picture), quote=True)
        found = self._uri(picture)
        if found is None:
            return f'<div class="gone" title="{name}">not shown</div>'
        return f'<img src="{found}" alt="{name}" title="{name}" loading="lazy">'

    def _uri(self, picture: Picture) -> str | None:
        if picture not in self._made:
            enough = sum(found is not None for found in self._made.values()) >= self._most
            self._made[picture] = None if enough else _draw(picture, self._side)
        return self._made[picture]


def _draw(picture: Picture, side: int) -> str | None:
    """The smaller of a JPEG (photographs) and a PNG of few colours (drawings); None where the picture cannot be read any more."""
    try:
        pixels = decode(picture, side)
    except BadInput:
        return None
    from PIL import Image

    image = Image.fromarray(pixels)
    kinds = {"jpeg": io.BytesIO(), "png": io.BytesIO()}
    image.save(kinds["jpeg"], "JPEG", quality=82, optimize=True)
    image.quantize(64).save(kinds["png"], "PNG", optimize=True)
    kind, held = min(kinds.items(), key=lambda found: len(found[1].getvalue()))
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"

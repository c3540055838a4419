"""When two texts are the same item: equal after Unicode compatibility folding, case folding and white space collapsed."""

from __future__ import annotations

import unicodedata


def normalize(text: str) -> str:
    """The identity of a text: NFKC, case folded, white space collapsed ("A  b " and "a b" are one item)."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())


def shorten(text: str, width: int = 86) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rsplit(" ", 1)[0] + "…"

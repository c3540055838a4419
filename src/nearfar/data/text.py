"""When two texts are the same item: equal after Unicode compatibility folding, case folding and white space collapsed; and texts as they are shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from nearfar.types import Picture

_AT_ONCE = 64
"""Texts folded together: one that needs more than lower case sends so many to be folded one by one."""
_OTHER_SPACE = tuple("\t\n\v\f\r\x1c\x1d\x1e\x1f")


def normalize(text: str) -> str:
    """The identity of an item: of a text NFKC, case folded, white space collapsed ("A  b " and "a b" are one item), of a picture its bytes, under whatever name."""
    if isinstance(text, Picture):
        return text.identity
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())


def normalize_all(texts: Sequence[str]) -> list[str]:
    """`normalize` of each text, for many: plain ones are folded together, which takes a third of the time."""
    found: list[str] = []
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        if any(issubclass(kind, Picture) for kind in set(map(type, part))):
            found += map(normalize, part)
            continue
        whole = "\0".join(part)
        if (
            whole.isascii()
            and whole.count("\0") == len(part) - 1
            and not whole.startswith(" ")
            and not whole.endswith(" ")
            and not ("  " in whole or " \0" in whole or "\0 " in whole)
            and not any(map(whole.__contains__, _OTHER_SPACE))
        ):
            found += whole.lower().split("\0")
        else:
            found += map(normalize, part)
    return found


def shorten(text: str, width: int = 86) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rsplit(" ", 1)[0] + "…"


def counted(number: int, what: str) -> str:
    """`1 pair`, `1,200 pairs`."""
    plural = {"query": "queries", "copy": "copies"}.get(what.rpartition(" ")[2])
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what[: -len(what.rpartition(' ')[2])]}{plural}" if plural else f"{number:,} {what}s"


def agree(number: int, verb: str) -> str:
    """The verb of so many: `have` as it is, of one `has`."""
    return {"have": "has", "are": "is", "were": "was"}.get(verb, f"{verb}s") if number == 1 else verb

"""The kinds of index by name, and opening a folder as the kind it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nearfar.errors import BadInput, Damaged
from nearfar.index.folder import MANIFEST, Stored, read_folder

if TYPE_CHECKING:
    from nearfar.index.approximate import ApproximateIndex
    from nearfar.index.exact import ExactIndex
    from nearfar.index.lexical import LexicalIndex


def open_index(folder: Path | str) -> ExactIndex | ApproximateIndex | LexicalIndex:
    """Open the index that `save` wrote to `folder`, every byte checked against its manifest; it finds what it found before.

    Raises `BadInput` where there is no index or one of an unknown format or kind, `Damaged` naming a file that is missing,
    truncated or altered. An index that another process replaces meanwhile is read again.
    """
    for _ in range(3):
        before = _manifest_bytes(Path(folder))
        try:
            return _open(read_folder(folder))
        except Damaged:
            if _manifest_bytes(Path(folder)) == before:
                raise
    return _open(read_folder(folder))


def _open(stored: Stored) -> ExactIndex | ApproximateIndex | LexicalIndex:
    # imported where needed: a lexical index opens without torch
    if stored.kind == "exact":
        from nearfar.index.exact import ExactIndex

        return ExactIndex.restore(stored)
    if stored.kind == "approximate":
        from nearfar.index.approximate import ApproximateIndex

        return ApproximateIndex.restore(stored)
    if stored.kind == "lexical":
        from nearfar.index.lexical import LexicalIndex

        return LexicalIndex.restore(stored)
    raise BadInput(
        f"{stored.path / MANIFEST}: unknown kind {stored.kind!r}. This nearfar knows exact, approximate and lexical."
    )


def _manifest_bytes(folder: Path) -> bytes | None:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None

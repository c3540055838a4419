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


_TRIES = 20


def open_index(folder: Path | str) -> ExactIndex | ApproximateIndex | LexicalIndex:
    """Open the index that `save` wrote to `folder`, every byte checked against its manifest; it finds what it found before.

    Raises `BadInput` where there is no index or one of an unknown format or kind, `Damaged` naming a file that is missing,
    truncated or altered. An index that another process replaces meanwhile is read again.
    """
    path = Path(folder)
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            return _open(read_folder(path))
        except (BadInput, Damaged, OSError):
            if _identity(path) == before:
                raise
    return _open(read_folder(path))


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


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells one written manifest from another, equal bytes or not; None where there is none."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns

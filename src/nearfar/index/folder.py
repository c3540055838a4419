"""One folder for one index: a manifest that names every file by its hash, documents as JSON lines, and what the kind adds.

Decisions. The folder is replaced whole (`nearfar.files.atomic_folder`) and read only where every byte is as the manifest says; the
manifest carries its own hash. A folder that holds anything but an index is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import __version__
from nearfar.errors import BadInput, Damaged
from nearfar.files import atomic_folder, hash_file, read_json, settle_folder, sync_folder, write_json
from nearfar.index.records import IndexedPicture, ModelIdentity, Records

FAMILY = "nearfar-index/"
FORMAT = f"{FAMILY}1"
"""What the manifest of this version says. Another number after the slash is another layout."""

MANIFEST, DOCUMENTS, VECTORS = "manifest.json", "documents.jsonl", "vectors.npy"


@dataclass(frozen=True)
class Stored:
    """An index folder whose files were found whole."""

    path: Path
    kind: str
    dim: int
    """Width of a row; 0 where the kind has no vectors."""
    count: int
    model: ModelIdentity | None
    settings: Mapping[str, Any]
    files: Mapping[str, Any]

    def file(self, name: str) -> Path:
        """The path of a file that the manifest names. Raises `Damaged` where it names no such file."""
        if name not in self.files:
            raise Damaged(
                f"{self.path / MANIFEST}: names no {name!r}, which an index of kind {self.kind!r} needs. Index again."
            )
        return self.path / name

    def records(self) -> Records:
        """The keys and documents, in row order. Raises `Damaged` where they are not `count` good lines."""
        path, records = self.file(DOCUMENTS), Records()
        keys: list[str] = []
        documents: list[str] = []
        try:
            for line in read_lines(path):
                keys.append(line["id"])
                place = line.get("picture")
                documents.append(line["text"] if place is None else IndexedPicture.from_json(line["text"], place))
            records.check_new(keys, documents)
        except (ValueError, TypeError, KeyError, BadInput) as error:
            raise Damaged(f"{path}:{len(keys) + 1}: not a document ({error}). Index the documents again.") from error
        self.check_count(path, len(keys))
        records.append(keys, documents)
        return records

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """A .npy file, mapped copy-on-write. Raises `Damaged` where shape or type are not the expected ones."""
        path = self.file(name)
        try:
            found = np.load(path, allow_pickle=False, mmap_mode="c" if shape[0] else None)
        except (ValueError, OSError, EOFError) as error:
            raise Damaged(f"{path}: not an array ({error}). Index the documents again.") from error
        if found.shape != shape or found.dtype != dtype:
            raise Damaged(
                f"{path}: found {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}. Index the documents again."
            )
        return found

    def check_count(self, path: Path, found: int) -> None:
        """Raise `Damaged` naming `path` unless it holds `count` of whatever it holds."""
        if found != self.count:
            raise Damaged(f"{path}: holds {found} entries, the manifest says {self.count}. Index the documents again.")


def save_folder(
    folder: Path | str,
    kind: str,
    records: Records,
    fill: Callable[[Path], None],
    *,
    dim: int = 0,
    model: ModelIdentity | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write an index folder, replacing an index that is there and nothing else; `fill` writes the files of the kind.

    Raises `BadInput` where `folder` is a file, or a folder that holds more than an index. A process killed at any moment leaves
    the old index or the new one.
    """
    path = Path(folder).resolve()
    settle_folder(path)
    check_replaceable(path)
    with atomic_folder(path) as target:
        with open(target / DOCUMENTS, "w", encoding="utf-8", newline="\n") as handle:
            for key, text in zip(records.keys, records.documents, strict=True):
                place = {"picture": text.to_json()} if isinstance(text, IndexedPicture) else {}
                handle.write(json.dumps({"id": key, "text": text, **place}, ensure_ascii=False) + "\n")
        fill(target)
        files = {f.name: {"sha256": hash_file(f), "bytes": f.stat().st_size} for f in sorted(target.iterdir())}
        manifest = {
            "format": FORMAT,
            "kind": kind,
            "dim": dim,
            "count": len(records),
            "model": None if model is None else {"name": model.name, "fingerprint": model.fingerprint},
            "settings": dict(settings or {}),
            "files": files,
            "made_by": f"nearfar {__version__}",
        }
        write_json(target / MANIFEST, manifest | {"sha256": _seal(manifest)})
        sync_folder(target)


def check_replaceable(path: Path) -> None:
    """Raise `BadInput` unless `path` is absent, an empty folder, or an index folder without foreign files."""
    if not path.exists():
        return
    if not path.is_dir():
        raise BadInput(f"{path}: is a file, and an index is a folder. Choose another path.")
    present = {p.name for p in path.iterdir()}
    if not present:
        return
    try:
        manifest = read_json(path / MANIFEST)
        is_index = isinstance(manifest, dict) and str(manifest.get("format")).startswith(FAMILY)
        foreign = sorted(present - {MANIFEST} - set(manifest["files"])) if is_index else sorted(present)
    except (BadInput, Damaged, KeyError, TypeError):
        foreign = sorted(present)
    if foreign:
        raise BadInput(
            f"{path}: holds what is not part of an index ({', '.join(foreign[:3])}), and saving would delete it. "
            "Choose another folder, or move those files away."
        )


def read_folder(folder: Path | str) -> Stored:
    """Check an index folder byte by byte and say what it holds.

    Raises `BadInput` where it is no index or of an unknown format, `Damaged` naming the file that is missing, torn or altered.
    """
    path = Path(folder)
    settle_folder(path)
    if not (path / MANIFEST).exists():
        if (path / DOCUMENTS).exists():
            raise Damaged(f"{path / MANIFEST}: is missing. Restore it, or index the documents again.")
        raise BadInput(f"{path}: no index here (no {MANIFEST}). Check the path, or make one with `nearfar index`.")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or not str(manifest.get("format")).startswith(FAMILY):
        raise BadInput(f"{path / MANIFEST}: is not the manifest of a nearfar index. Check the path.")
    if manifest["format"] != FORMAT:
        raise BadInput(
            f"{path / MANIFEST}: found format {manifest['format']!r} (by {manifest.get('made_by')}), and nearfar {__version__} "
            f"reads {FORMAT!r}. Open it with the nearfar that made it, or index the documents again."
        )
    if manifest.pop("sha256", None) != _seal(manifest):
        raise Damaged(f"{path / MANIFEST}: was altered (its hash does not match). Restore it, or index the documents again.")
    for name, entry in manifest["files"].items():
        _check_file(path / name, entry)
    model = None if manifest["model"] is None else ModelIdentity(**manifest["model"])
    return Stored(path, manifest["kind"], manifest["dim"], manifest["count"], model, manifest["settings"], manifest["files"])


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a JSON-lines file."""
    with open(path, encoding="utf-8", newline="\n") as handle:
        for line in handle:
            yield json.loads(line)


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise Damaged(f"{path}: is missing. Restore it, or index the documents again.")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise Damaged(f"{path}: has {size} bytes, and {entry['bytes']} were written. Restore it, or index the documents again.")
    if hash_file(path) != entry["sha256"]:
        raise Damaged(f"{path}: was altered (its hash does not match). Restore it, or index the documents again.")


def _seal(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

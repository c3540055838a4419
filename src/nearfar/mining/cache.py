"""What mining keeps between runs: vectors and scores by the hash of their text, found documents by all that decided them.

A folder of small sealed files, each written whole. What is damaged is named and made anew; anything in it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nearfar.data.pictures import read_bytes
from nearfar.errors import Damaged
from nearfar.files import atomic_file, clear_dead
from nearfar.types import Picture, Progress, silent

KEY_BYTES = 16
FORMAT = 1
"""Raised when what is kept, or how it is made, changes: what was kept before is then not taken up."""


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """[n, 16] bytes: a hash of each text, exactly as written; of a picture, of its content as well: under one name it may be another tomorrow."""
    whole = b"".join(hashlib.sha256(_content(text)).digest()[:KEY_BYTES] for text in texts)
    return np.frombuffer(whole, dtype=np.uint8).reshape(-1, KEY_BYTES)


def _content(text: str) -> bytes:
    told = text.encode(errors="surrogatepass")
    if not isinstance(text, Picture):
        return told
    return told + b"\0" + hashlib.sha256(read_bytes(text)).digest()


def digest_of(*parts: object) -> str:
    """32 hexadecimal digits over parts that have a JSON form."""
    return hashlib.sha256(json.dumps([FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:32]


class Cache:
    """A folder of what was computed before, or nothing at all (None)."""

    def __init__(self, folder: Path | str | None, progress: Progress = silent) -> None:
        """Nothing is written before something is kept. What killed writers left is removed."""
        self.folder = None if folder is None else Path(folder)
        self._progress = progress
        if self.folder is not None and self.folder.is_dir():
            for place in (self.folder, *(p for p in self.folder.iterdir() if p.is_dir())):
                clear_dead(place)

    def blocks(self, shelf: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All (keys [m, 16], rows [m, ...]) kept on a shelf; a damaged block is named, removed, and not among them."""
        if self.folder is None:
            return
        for path in sorted((self.folder / shelf).glob("block-*.safetensors")):
            found = self._read(path)
            if found is not None:
                yield found[0]["keys"], found[0]["rows"]

    def keep_block(self, shelf: str, keys: np.ndarray, rows: np.ndarray) -> None:
        """Keep rows under their keys, in a file named by its content."""
        if self.folder is not None:
            name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
            self._write(self.folder / shelf / f"block-{name}.safetensors", {"keys": keys, "rows": rows}, {})

    def hits(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and facts kept under this name, None where there are none."""
        if self.folder is None:
            return None
        path = self.folder / "hits" / f"{name}.safetensors"
        return self._read(path) if path.exists() else None

    def hit_names(self, prefix: str) -> list[str]:
        """The names under which something is kept that begin so."""
        if self.folder is None:
            return []
        return sorted(p.name.removesuffix(".safetensors") for p in (self.folder / "hits").glob(f"{prefix}*.safetensors"))

    def keep_hits(self, name: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Keep arrays and facts (JSON) under a name."""
        if self.folder is not None:
            self._write(self.folder / "hits" / f"{name}.safetensors", arrays, facts)

    def _write(self, path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        told = json.dumps(facts, sort_keys=True)
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        data = save(whole, metadata={"sha256": _seal(whole, told), "facts": told})
        with atomic_file(path) as handle:
            handle.write(data)

    def _read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        try:
            return _opened(path)
        except Damaged as error:
            self._progress("cache", 0, 1, note=f"{error} It is made anew.")
            path.unlink(missing_ok=True)
            return None


def _opened(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a kept file holds. Raises `Damaged` where any byte of it is not as it was written."""
    try:
        data = path.read_bytes()
        arrays = load(data)
        (length,) = struct.unpack("<Q", data[:8])
        told = json.loads(data[8 : 8 + length])["__metadata__"]
        facts = json.loads(told["facts"])
    except (SafetensorError, OSError, ValueError, KeyError, struct.error) as error:
        raise Damaged(f"{path}: it is torn ({error}).") from error
    if told.get("sha256") != _seal(arrays, told["facts"]):
        raise Damaged(f"{path}: its content is not what was written.")
    return arrays, facts


def _seal(arrays: Mapping[str, np.ndarray], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        digest.update(f"{name}\0{arrays[name].dtype}\0{arrays[name].shape}\0".encode())
        digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data if arrays[name].size else b"")
    return digest.hexdigest()

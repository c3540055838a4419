"""What an export says of itself: `export.json` in its folder, with what was measured and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nearfar import __version__
from nearfar.errors import BadInput, Damaged
from nearfar.files import hash_file, read_json, settle_folder, write_json

FORMAT = "nearfar-export/1"
RECORD = "export.json"


@dataclass(frozen=True)
class Quantized:
    """Cosines between int8 rows and the model's own, over the sample texts, each alone and all in one padded batch."""

    smallest_cosine: float
    mean_cosine: float


@dataclass(frozen=True)
class Exported:
    """An export that has been written and compared with its model."""

    folder: Path
    kind: str
    """`onnx`, `onnx-int8`, `sentence-transformers` or `static`."""
    dim: int
    largest_difference: float
    """Between any number of the exported rows and of the model's, over the sample texts (int8: of the float graph it is made of)."""
    texts: int
    """How many texts were compared."""
    size: int
    """Bytes of all files."""
    quantized: Quantized | None = None


def check_out(out: Path) -> None:
    """Raise `BadInput` where `out` holds anything but an earlier export, which may be replaced."""
    settle_folder(out)
    if out.is_dir():
        if (out / RECORD).exists():
            read_record(out)
            return
        held = next((place.name for place in sorted(out.iterdir())), None)
        if held is not None:
            raise BadInput(f"{out}: the folder holds something else ({held!r}), which is not overwritten. Export into another.")
    elif out.exists():
        raise BadInput(f"{out}: this is a file. Give a folder for the export.")


def read_record(folder: Path) -> dict[str, Any]:
    """`export.json` of a folder. Raises `BadInput` where there is none, `Damaged` where it is not one of ours."""
    if not (folder / RECORD).exists():
        raise BadInput(f"{folder}: this is no export ({RECORD} is not there). Make one: nearfar export MODEL -o OUT.")
    found = read_json(folder / RECORD)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Damaged(
            f"{folder / RECORD}: this is no record of an export ('format' is not {FORMAT!r}). Export into another folder."
        )
    return found


def write_record(folder: Path, facts: Mapping[str, Any], packages: tuple[str, ...] = ()) -> int:
    """Write `export.json`: the facts, versions, and the hash of every other file; returns the bytes of all files."""
    files = sorted(place for place in folder.rglob("*") if place.is_file() and place.name != RECORD)
    versions: dict[str, str | None] = {"nearfar": __version__}
    for name in ("torch", "transformers", "tokenizers", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    hashes = {place.relative_to(folder).as_posix(): hash_file(place) for place in files}
    write_json(folder / RECORD, {"format": FORMAT, **facts, "versions": versions, "files": hashes})
    return sum(place.stat().st_size for place in files)


def shown_name(model: str | Path) -> str:
    """What a model is called in a record that travels: a folder by its last name, never by its path on this machine."""
    path = Path(str(model).removeprefix("static:"))
    return path.resolve().name if path.exists() else str(model)

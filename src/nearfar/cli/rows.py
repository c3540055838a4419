"""Pairs and texts in, rows out, as commands read and write them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nearfar.data.pairs import PairFile, read_pairs
from nearfar.data.tasks import read_corpus
from nearfar.errors import BadInput
from nearfar.files import atomic_file, write_atomic


def read_pairs_strictly(path: Path, *, columns: Mapping[str, str] | None = None, allow_swapped: bool = False) -> PairFile:
    """As `read_pairs`; where rows are no pairs, its error says how many there are and the command that names them all and leaves them out."""
    try:
        return read_pairs(path, columns=columns, allow_swapped=allow_swapped)
    except BadInput as error:
        from nearfar.auditing.material import Material

        refused: list[BadInput] = []
        try:
            read_pairs(path, columns=columns, allow_swapped=True, refused=refused)
        except BadInput:
            raise error from None  # nothing in it can be read: the audit would say no more
        if not refused or path.is_dir():
            raise
        told = ",".join(f"{ours}={theirs}" for ours, theirs in (columns or {}).items())
        them = "it" if len(refused) == 1 else f"all {len(refused):,} such rows"
        raise BadInput(f"{error} To leave {them} out: {Material((), (), str(path), columns=told).fix()}") from None


def read_texts(path: Path) -> dict[str, str]:
    """Id -> text, of a corpus .jsonl, or of lines (their ids are line numbers from 1); `-` is stdin. Empty lines are refused."""
    if path.suffix in (".jsonl", ".gz", ".csv", ".tsv", ".parquet"):
        return read_corpus(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: byte {error.start:,} is not UTF-8. Convert the file: iconv -t UTF-8.") from error
    except IsADirectoryError as error:
        raise BadInput(f"{path}: this is a folder. Give a file with one text a line.") from error
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file. Check the path.") from error
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise BadInput(f"{path}:{number}: the line is empty. Drop it: every line becomes one row.")
    if not lines:
        raise BadInput(f"{path}: there is no text. Give a file with one text a line.")
    return {str(number): line for number, line in enumerate(lines, 1)}


def write_rows(path: Path, ids: list[str], rows: np.ndarray) -> None:
    """Write rows atomically; .npy holds them alone in order, .safetensors as `rows`, .parquet with the column `id`."""
    if path.suffix == ".npy":
        with atomic_file(path) as handle:
            np.save(handle, rows, allow_pickle=False)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        write_atomic(path, lambda place: save_file({"rows": rows}, place))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(rows.reshape(-1))
        table = pa.table({"id": ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])})
        write_atomic(path, lambda place: pq.write_table(table, place))

"""Tables on disk, row by row, each row with the line it came from: JSONL, CSV, TSV, Parquet, a `datasets` folder.

Nothing is repaired: what cannot be read raises `BadInput` with file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nearfar.errors import BadInput
from nearfar.files import atomic_file, write_atomic

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")


class Row(NamedTuple):
    """One record and where it stands: `where` is `file:line` (or `file: row N` for Parquet)."""

    where: str
    values: Mapping[str, Any]


class Table(NamedTuple):
    """Column names in order (of the first record for JSONL) and the rows, read lazily."""

    columns: list[str]
    rows: Iterator[Row]


def suffix_of(path: Path) -> str:
    """The format of a file by its name. Raises `BadInput` naming the known ones."""
    name = path.name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise BadInput(
        f"{path}: cannot tell the format from the name. Known endings: {', '.join(SUFFIXES)}, or a `datasets` folder."
    )


def read_table(path: Path, refused: list[BadInput] | None = None) -> Table:
    """Open a table. Raises `BadInput` for a missing, empty, torn or undecodable file and for a folder that is no `datasets` folder.

    A line of JSONL that is no object, and a row of CSV or TSV with other than the header's fields, end the reading; where `refused` is given they go there.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file. Check the path (relative paths start at {Path.cwd()}).")
    if path.is_dir():
        return _read_datasets_folder(path)
    suffix = suffix_of(path)
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty. Expected a row per pair.")
    if suffix == ".parquet":
        return _read_parquet(path)
    text = _decode(path, suffix)
    if not text.strip():
        raise BadInput(f"{path}:1: the file holds only white space. Expected a row per pair.")
    if suffix.startswith(".jsonl"):
        return _read_jsonl(path, text, refused)
    return _read_csv(path, text, "\t" if suffix == ".tsv" else ",", refused)


def _decode(path: Path, suffix: str) -> str:
    try:
        data = path.read_bytes()
        if suffix.endswith(".gz"):
            data = gzip.decompress(data)
    except PermissionError as error:
        raise BadInput(f"{path}: this file may not be read. Change its permissions (`chmod u+r {path}`).") from error
    except (OSError, EOFError) as error:
        raise BadInput(f"{path}: the compressed file is torn ({error}). Copy it again.") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInput(f"{path}:1: this is UTF-16. Save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`).")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path}:{line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8. "
            "Save the file as UTF-8 (`iconv -f WINDOWS-1252 -t UTF-8` if it came from Excel)."
        ) from error
    if "\0" in text:
        raise BadInput(
            f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL character. This is not a text file, or it is damaged."
        )
    return text


def _read_jsonl(path: Path, text: str, refused: list[BadInput] | None) -> Table:
    def rows(told: list[BadInput] | None) -> Iterator[Row]:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = _json_record(where, line)
            except BadInput as error:
                if told is None:
                    raise
                told.append(error)
            else:
                yield Row(where, record)

    names: dict[str, None] = {}
    for row in rows(refused):  # columns of JSONL may vary by row: all names are known before the first row is understood
        names.update(dict.fromkeys(row.values))
    return Table(list(names), rows(None if refused is None else []))


def _json_record(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{where}: not a JSON object ({error.msg} at column {error.colno}). One object per line is expected."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: JSON that cannot be read ({error}). One object of texts and numbers is expected.") from error
    if not isinstance(record, dict):
        raise BadInput(
            f'{where}: expected a JSON object, found {type(record).__name__}. Write {{"query": ..., "positive": ...}}.'
        )
    if "\\ud" in line or "\\uD" in line:
        refuse_halves(where, record)
    return record


def refuse_halves(where: str, value: Any) -> None:
    """Raise `BadInput` where a text within a JSON value holds half of a surrogate pair, which JSON can escape and no file can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise BadInput(
                f"{where}: {half} at character {error.start + 1} of {value[:20].encode(errors='replace').decode()!r} is half of a surrogate pair, "
                "no character: an emoji was cut in two, or the file is damaged. Write the whole character, or drop the line."
            ) from None
    elif isinstance(value, dict):
        for each in (*value, *value.values()):
            refuse_halves(where, each)
    elif isinstance(value, list):
        for each in value:
            refuse_halves(where, each)


def _read_csv(path: Path, text: str, delimiter: str, refused: list[BadInput] | None) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = next(_csv_records(path, reader))[1]
    header = [name.strip() for name in header]
    for name in header:
        if header.count(name) > 1:
            raise BadInput(f"{path}:1: column '{name}' is there twice. Rename one of them.")

    def rows() -> Iterator[Row]:
        for line, fields in _csv_records(path, reader):
            if not fields:
                continue
            where = f"{path}:{line}"
            if len(fields) != len(header):
                error = BadInput(
                    f"{where}: {len(fields)} fields, but the header has {len(header)} ({', '.join(header)}). "
                    "Quote fields that hold a separator or a line break."
                )
                if refused is None:
                    raise error
                refused.append(error)
                continue
            yield Row(where, dict(zip(header, fields, strict=True)))

    return Table(header, rows())


def _csv_records(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(1 << 30)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadInput(
                f"{path}:{line}: the quoting is broken ({error}). Close the quote, and double quotes inside a field."
            ) from error
        yield line, fields


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(
            f"{path}: not a readable Parquet file ({error}). Write it again, or check that the copy is complete."
        ) from error

    def rows() -> Iterator[Row]:
        number = 0
        for batch in file.iter_batches(batch_size=4096):
            for record in batch.to_pylist():
                number += 1
                yield Row(f"{path}: row {number}", record)

    return Table(list(file.schema_arrow.names), rows())


def _read_datasets_folder(path: Path) -> Table:
    import pyarrow as pa

    state = path / "state.json"
    if not state.exists():
        raise BadInput(
            f"{path}: this is a folder, not a file, and no pictures are in it. Name the file inside it, or a folder written by `Dataset.save_to_disk` "
            "(a `DatasetDict` folder holds one folder per split: name the split's)."
        )
    try:
        shards = [path / file["filename"] for file in json.loads(state.read_text("utf-8"))["_data_files"]]
        tables = [pa.ipc.open_stream(pa.memory_map(str(shard))) for shard in shards]
        names = list(tables[0].schema.names) if tables else []
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise BadInput(f"{path}: the `datasets` folder is incomplete or damaged ({error}). Save it again.") from error

    def rows() -> Iterator[Row]:
        number = 0
        for table in tables:
            for batch in table:
                for record in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", record)

    return Table(names, rows())


def write_table(path: Path, columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Write records atomically in the format of the name. Lists become JSON text in CSV and TSV; None is an empty field there."""
    suffix = suffix_of(path)
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        one = pa.struct([("source", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("margin", pa.float64())])
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as `datasets` has them
        types = {
            "negatives": pa.list_(pa.string()),
            "score": pa.float64(),
            "teacher_scores": pa.list_(pa.float64()),
            "mined": pa.list_(one),
            "query_image": picture,
            "positive_image": picture,
            "negative_images": pa.list_(picture),
        }
        schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
        table = pa.Table.from_pylist([{name: record.get(name) for name in columns} for record in records], schema=schema)
        write_atomic(path, lambda temporary: pq.write_table(table, temporary))
    elif suffix.startswith(".jsonl"):
        lines = (
            json.dumps({k: v for k, v in record.items() if v is not None}, ensure_ascii=False) + "\n" for record in records
        )
        if suffix.endswith(".gz"):
            data = gzip.compress("".join(lines).encode(), mtime=0)
            with atomic_file(path) as handle:
                handle.write(data)
        else:
            with atomic_file(path, "w") as handle:
                handle.writelines(lines)
    else:
        write_csv(path, columns, [[_csv_field(record.get(name)) for name in columns] for record in records])


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows atomically as CSV, or as TSV by the name. Raises `BadInput` for a NUL character, which such a file cannot hold."""
    delimiter = "\t" if suffix_of(path) == ".tsv" else ","
    with atomic_file(path, "w") as handle:
        plain = csv.writer(handle, delimiter=delimiter, lineterminator="\n")
        # a carriage return ends a line for whoever reads it, and Python 3.11 to 3.12 do not quote it by themselves
        quoted = csv.writer(handle, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for number, fields in enumerate((columns, *rows), 1):
            texts = [field for field in fields if isinstance(field, str)]
            if any("\0" in text for text in texts):
                raise BadInput(
                    f"{path}: row {number} would hold a NUL character, which {path.suffix} cannot. Write .jsonl or .parquet, or take it out of the text."
                )
            (quoted if any("\r" in text for text in texts) else plain).writerow(fields)


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)

"""The cleaned copy: what is certain is left out and listed, all else is kept as it was, column for column, in order.

Only what was counted is touched. What was estimated (mismatched positives, cut texts) cannot be told row by row, and stays.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfar.auditing.answers import same_texts
from nearfar.auditing.duplicates import copied_pairs
from nearfar.auditing.leakage import leaks
from nearfar.auditing.material import Material
from nearfar.auditing.negatives import planted
from nearfar.auditing.swapped import swapped_rows
from nearfar.auditing.texts import near_empty_rows
from nearfar.data.formats import Row, read_table, suffix_of, write_csv
from nearfar.data.pairs import drop_negatives
from nearfar.data.text import counted
from nearfar.errors import BadInput
from nearfar.files import atomic_file, write_atomic


class Fixed(NamedTuple):
    """What was written: the cleaned copy, the list of what it lacks, and how many of each reason."""

    path: Path
    removed: Path
    kept: int
    reasons: Mapping[str, int]


def removals(material: Material) -> dict[int, str]:
    """Pair number -> code of the finding for which the cleaned copy leaves it out; the first reason of the table counts."""
    found: dict[int, str] = {}
    unscored = [row for row in same_texts(material) if material.pairs[row].score is None]
    reasons: list[tuple[str, Sequence[int]]] = [
        ("near_empty", near_empty_rows(material)),
        ("duplicate_pairs", copied_pairs(material)),
        ("query_is_positive", unscored),
    ]
    if material.task is not None:
        leaked = leaks(material, material.task)
        reasons += [
            ("leaked_answers", list(leaked.answered)),
            ("nearly_leaked_answers", list(leaked.nearly)),
            ("leaked_queries", list(leaked.asked)),
        ]
    reasons.append(("swapped_columns", swapped_rows(material)))
    for code, rows in reasons:
        for row in rows:
            found.setdefault(row, code)
    return found


def fix(material: Material, source: Path | str, out: Path | str, *, columns: Mapping[str, str] | None = None) -> Fixed:
    """Write `out`, the pairs of `source` (the file `material` was read from) without what is certainly wrong, and `OUT.removed.jsonl`.

    `out` has the format of `source`, whose bytes are never touched; each of the two files is written whole or not at all, the list first. Kept rows keep
    all their columns and their order. Of hard negatives that are known positives only these go, with their entries in lists beside them. Raises `BadInput` where `out`
    is the source or of another format, or where nothing would be left.
    """
    source, out = Path(source), Path(out)
    if out.resolve() == source.resolve():
        raise BadInput(f"{out}: this is the file that is audited. The original is never touched: give the copy another name.")
    if source.is_dir() or source.name.lower().endswith(".tar"):
        raise BadInput(
            f"{source}: a folder or shard cannot be copied row by row. Save a `datasets` folder as Parquet (`to_parquet`), list pictures in a "
            "metadata.csv, and audit that."
        )
    if material.has_pictures and out.resolve().parent != source.resolve().parent:
        raise BadInput(
            f"{out}: the pictures of {source.name} are named from its folder. Write the copy beside it: --fix {source.with_name(out.name)}."
        )
    if suffix_of(source).removesuffix(".gz") != suffix_of(out).removesuffix(".gz"):
        raise BadInput(f"{out}: the copy is written in the format of {source.name} ({suffix_of(source)}). Give it that ending.")
    removed_pairs = removals(material)
    left = {place for row, place in enumerate(material.where) if row not in removed_pairs}
    # of a row with several captions or pictures all pairs must be wrong
    gone = {material.where[row]: code for row, code in removed_pairs.items() if material.where[row] not in left}
    gone |= {refused.where: "broken_pictures" if refused.is_picture else "refused_rows" for refused in material.refused}
    wrong: dict[str, set[int]] = {}
    firsts = np.searchsorted(material.owners, np.arange(len(material)))
    for number in np.flatnonzero(planted(material)):
        row = int(material.owners[number])
        wrong.setdefault(material.where[row], set()).add(int(number - firsts[row]))
    broken: list[BadInput] = []
    table = read_table(source, broken)
    rows = list(table.rows)
    kept: list[Row] = []
    listed: list[dict[str, Any]] = []
    pair_at = dict(zip(material.where, material.pairs, strict=True))
    for row in rows:
        if row.where in gone:
            listed.append({"where": row.where, "reason": gone[row.where], "row": dict(row.values)})
            continue
        numbers = wrong.get(row.where, set())
        listed += [
            {"where": row.where, "reason": "planted_positives", "negative": pair_at[row.where].negatives[number]}
            for number in sorted(numbers)
        ]
        changed = drop_negatives(source, table.columns, row.values, numbers, columns=columns) if numbers else row.values
        kept.append(Row(row.where, changed))
    if not kept:
        raise BadInput(
            f"{source}: nothing would be left of it ({counted(len(rows) + len(broken), 'row')}), so {out} is not written. The findings say why."
        )
    if broken:
        there, lines = {row.where for row in rows}, _lines(source)
        for refused in material.refused:
            if refused.where not in there:
                text = lines[int(refused.where.rpartition(":")[2]) - 1]
                listed.append({"where": refused.where, "reason": "refused_rows", "row": text})
        listed.sort(key=lambda item: int(item["where"].rpartition(":")[2]))
    removed = out.with_name(f"{out.name}.removed.jsonl")
    with atomic_file(removed, "w") as handle:
        handle.writelines(json.dumps(item, ensure_ascii=False, default=_told) + "\n" for item in listed)
    _write(source, out, table.columns, kept, set(wrong))
    reasons: dict[str, int] = {}
    for item in listed:
        reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
    return Fixed(out, removed, len(kept), reasons)


def _lines(source: Path) -> list[str]:
    """The lines of a file of text, as they are."""
    data = source.read_bytes()
    return (gzip.decompress(data) if source.name.lower().endswith(".gz") else data).decode("utf-8-sig").split("\n")


def _told(value: Any) -> str:
    """What JSON has no form for, in words."""
    return f"({len(value):,} bytes)" if isinstance(value, bytes) else str(value)


def _write(source: Path, out: Path, columns: Sequence[str], kept: Sequence[Row], changed: set[str]) -> None:
    suffix = suffix_of(source)
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole = pq.read_table(source)
        numbers = [int(row.where.rpartition(" ")[2]) - 1 for row in kept]
        result = whole.take(numbers)
        if changed:
            result = pa.Table.from_pylist([dict(row.values) for row in kept], schema=whole.schema)
        write_atomic(out, lambda temporary: pq.write_table(result, temporary))
        return
    if suffix.startswith(".jsonl"):
        lines = _lines(source)
        text = "".join(
            (
                json.dumps(row.values, ensure_ascii=False)
                if row.where in changed
                else lines[int(row.where.rpartition(":")[2]) - 1]
            )
            + "\n"
            for row in kept
        )
        with atomic_file(out) as handle:
            handle.write(gzip.compress(text.encode(), mtime=0) if out.name.lower().endswith(".gz") else text.encode())
        return
    write_csv(out, columns, [["" if row.values[name] is None else row.values[name] for name in columns] for row in kept])

"""Pairs on disk: the columns as people have them, understood once and said in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from nearfar.data.formats import Row, read_table, refuse_halves, write_table
from nearfar.data.text import counted
from nearfar.errors import BadInput
from nearfar.types import MinedNegative, Pair

NAMES: dict[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question", "sentence1"),
    "positive": ("positive", "passage", "answer", "sentence2", "document"),
    "negative": ("negative",),
    "negatives": ("negatives",),
    "score": ("score", "label"),
    "group": ("group",),
    "source": ("source",),
    "teacher_scores": ("teacher_scores",),
    "mined": ("mined",),
}
"""The names each column goes by, in the order in which they are looked for."""

_NUMBERED = re.compile(r"negative_(\d+)$")
_ASKS = re.compile(r"\?\s*$|^(what|who|how|why|when|where|which|is|are|can|do|does|should)\b", re.IGNORECASE)


@dataclass(frozen=True)
class PairFile:
    """Pairs and where they came from. `where[i]` is `file:line` of `pairs[i]`; `understood` says in one line what was read."""

    path: Path
    pairs: list[Pair]
    where: list[str]
    understood: str


class _Columns(NamedTuple):
    query: str
    positive: str
    negatives: list[str]  # single-text columns, in order
    lists: str | None
    score: str | None
    group: str | None
    source: str | None
    teacher_scores: str | None
    mined: str | None


def read_pairs(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    allow_swapped: bool = False,
    refused: list[BadInput] | None = None,
) -> PairFile:
    """Read pairs from JSONL (.gz too), CSV, TSV, Parquet, or a folder written by `datasets`.

    `columns` maps our names to the file's (`{"query": "title"}`); others are found by the usual names (`NAMES`), in capitals too. Hard negatives
    come as `negative`, `negative_1..n` (empty cells are skipped) or a `negatives` list of any length (JSON text in CSV), a teacher's
    scores of the positive and each of them as a list `teacher_scores`, and where each came from as a list `mined` (`nearfar mine` writes it).
    Raises `BadInput` with file and line for anything that is missing, empty, torn, or looks swapped (unless `allow_swapped`). A line or row that is
    no pair goes to `refused`, where that is given, instead of ending the reading; what cannot be read as rows is raised all the same.
    """
    path = Path(path)
    table = read_table(path, refused)
    if refused and not table.columns:
        raise refused[0]
    chosen = _understand(path, table.columns, columns or {})
    pairs: list[Pair] = []
    where: list[str] = []
    for row in table.rows:
        try:
            pairs.append(_pair(row, chosen))
        except BadInput as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        where.append(row.where)
    if not pairs and refused:
        raise refused[0]
    if not pairs:
        raise BadInput(f"{path}: a header but no rows. Expected a row per pair.")
    if not allow_swapped:
        _refuse_swapped(chosen, pairs, where)
    return PairFile(path, pairs, where, _said(path, chosen, table.columns, pairs))


def _understand(path: Path, found: Sequence[str], mapping: Mapping[str, str]) -> _Columns:
    for ours, theirs in mapping.items():
        if ours not in NAMES:
            raise BadInput(
                f"{path}: '{ours}' is not one of ours. A mapping names {', '.join(NAMES)}: --columns query=TITLE,positive=BODY."
            )
        if theirs not in found:
            raise BadInput(f"{path}:1: there is no column '{theirs}' (asked for as {ours}). Found: {', '.join(found)}.")
    taken = set(mapping.values())

    def pick(ours: str) -> str | None:
        if ours in mapping:
            return mapping[ours]
        there = [name for name in NAMES[ours] if name in found and name not in taken]
        if not there:  # a spreadsheet's headers: Question, ANSWER
            there = [name for known in NAMES[ours] for name in found if name.strip().lower() == known and name not in taken]
        if len(there) > 1 and ours in ("query", "positive"):
            raise BadInput(
                f"{path}:1: {' and '.join(there)} could both be the {ours}. Choose one: --columns {ours}={there[0]}."
            )
        return there[0] if there else None

    picked = {ours: pick(ours) for ours in NAMES}
    for ours in ("query", "positive"):
        if picked[ours] is None:
            raise BadInput(
                f"{path}:1: no column for the {ours}. Found: {', '.join(map(repr, found))}; looked for {', '.join(NAMES[ours])}. "
                + (
                    "The fields seem to be separated by ';': save the file with commas or tabs (.tsv). "
                    if _semicolons(found)
                    else ""
                )
                + f"Name it (--columns {ours}=...)"
                + ("." if path.suffix in (".jsonl", ".parquet") else ", or add a header line if the file has none.")
            )
    numbered = sorted((name for name in found if _NUMBERED.match(name)), key=lambda name: int(name.rpartition("_")[2]))
    single = ([picked["negative"]] if picked["negative"] else []) + numbered
    return _Columns(
        str(picked["query"]),
        str(picked["positive"]),
        single,
        picked["negatives"],
        picked["score"],
        picked["group"],
        picked["source"],
        picked["teacher_scores"],
        picked["mined"],
    )


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    if value is None:
        raise BadInput(
            f"{row.where}: '{column}' is missing. Every pair needs a query and a positive: fill it in or drop the line."
        )
    if not isinstance(value, str):
        raise BadInput(
            f"{row.where}: '{column}' is {type(value).__name__} ({str(value)[:40]!r}), expected text. Put it in quotes."
        )
    if not value.strip():
        other = next((v for k, v in row.values.items() if k != column and isinstance(v, str) and v.strip()), "")
        raise BadInput(f"{row.where}: '{column}' is empty (beside {other[:40]!r}). Fill it in or drop the line.")
    return value


def _pair(row: Row, chosen: _Columns) -> Pair:
    negatives = [_text(row, name) for name in chosen.negatives if row.values.get(name) not in (None, "")]
    if chosen.lists is not None:
        negatives += _negative_list(row, chosen.lists)
    score = row.values.get(chosen.score) if chosen.score else None
    if score in (None, ""):
        score = None
    else:
        try:
            score = float(score)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise BadInput(
                f"{row.where}: '{chosen.score}' is {score!r}, expected a number. Leave it empty where there is none."
            ) from None
        if not abs(score) < float("inf"):
            raise BadInput(f"{row.where}: '{chosen.score}' is {score}, expected a finite number.")

    def label(column: str | None) -> str | None:
        value = row.values.get(column) if column else None
        return None if value is None or value == "" else str(value)

    return Pair(
        _text(row, chosen.query),
        _text(row, chosen.positive),
        tuple(negatives),
        label(chosen.group),
        score,
        label(chosen.source),
        _teacher_scores(row, chosen.teacher_scores, len(negatives)) if chosen.teacher_scores else (),
        _mined(row, chosen.mined, len(negatives)) if chosen.mined else (),
    )


def _negative_list(row: Row, column: str) -> list[str]:
    value = row.values.get(column)
    if value in (None, ""):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise BadInput(
                f"{row.where}: '{column}' is {value[:40]!r}, expected a JSON list of texts. A single text goes into a 'negative' column."
            ) from None
        refuse_halves(row.where, value)
    if not isinstance(value, list):
        raise BadInput(f"{row.where}: '{column}' is {type(value).__name__}, expected a list of texts.")
    return [_text(Row(row.where, {f"{column}[{i}]": item}), f"{column}[{i}]") for i, item in enumerate(value)]


def drop_negatives(
    path: Path, found: Sequence[str], record: Mapping[str, Any], dropped: set[int], *, columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A record of the file `path` (whose columns are `found`) without the hard negatives of these numbers, counted as `Pair.negatives` counts them.

    Cells of single negatives become empty. Of the list, and of every other list with one entry for each hard negative (their scores, say) or one
    more before them (`teacher_scores`), the same entries go; all else stays as it is. `columns` as for `read_pairs`.
    """
    chosen = _understand(path, found, columns or {})
    result = dict(record)
    cells = [name for name in chosen.negatives if record.get(name) not in (None, "")]
    total = len(_pair(Row(str(path), record), chosen).negatives)
    in_list = total - len(cells)
    for number, name in enumerate(cells):
        if number in dropped:
            result[name] = "" if isinstance(record[name], str) and path.suffix in (".csv", ".tsv") else None
    for name, value in record.items():
        is_text = isinstance(value, str) and value.lstrip()[:1] == "[" and name not in (chosen.query, chosen.positive, *cells)
        try:
            entries = json.loads(value) if is_text else value
        except json.JSONDecodeError:
            continue
        if not isinstance(entries, list):
            continue
        if name == chosen.lists:
            before, reach = -len(cells), in_list
        elif name == chosen.teacher_scores:
            before, reach = 1, total + 1
        else:
            before, reach = 0, total
        if len(entries) == reach:
            kept = [entry for place, entry in enumerate(entries) if place - before not in dropped or place < before]
            result[name] = json.dumps(kept, ensure_ascii=False) if is_text else kept
    return result


def _teacher_scores(row: Row, column: str, negatives: int) -> tuple[float, ...]:
    value = row.values.get(column)
    if value in (None, ""):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    try:
        scores = tuple(float(number) for number in value)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise BadInput(f"{row.where}: '{column}' is {str(row.values[column])[:40]!r}, expected a list of numbers.") from None
    if len(scores) != negatives + 1 or not all(abs(score) < float("inf") for score in scores):
        raise BadInput(
            f"{row.where}: '{column}' holds {len(scores)} numbers, expected {negatives + 1} finite ones: the positive's, then one for each of "
            f"{negatives} hard negatives."
        )
    return scores


def _mined(row: Row, column: str, negatives: int) -> tuple[MinedNegative, ...]:
    value = row.values.get(column)
    if value in (None, "", []):
        return ()
    try:
        told = json.loads(value) if isinstance(value, str) else value
        found = tuple(
            MinedNegative(str(one["source"]), int(one["rank"]), _number(one.get("score")), _number(one.get("margin")))
            for one in told  # type: ignore[union-attr]
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        raise BadInput(
            f"{row.where}: '{column}' is {str(value)[:60]!r}, expected a list with source, rank, score and margin of each hard negative, as "
            f"`nearfar mine` writes it. Drop the column '{column}' if something else wrote it."
        ) from None
    if len(found) != negatives:
        raise BadInput(
            f"{row.where}: '{column}' tells of {len(found)} hard negatives, and there are {negatives}. Drop the column '{column}' where "
            "negatives were added or taken out by hand."
        )
    return found


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not abs(number) < float("inf"):
        raise ValueError(value)
    return number


def looks_swapped(pairs: Sequence[Pair]) -> bool:
    """Long 'queries' that do not ask beside short 'positives' that do: the columns are the wrong way round."""
    queries, positives = [p.query for p in pairs], [p.positive for p in pairs]
    lengths = [median(len(t.split()) for t in texts) for texts in (queries, positives)]
    asks = [sum(bool(_ASKS.search(t.strip())) for t in texts) / len(texts) for texts in (queries, positives)]
    return lengths[0] > 3 * lengths[1] and asks[1] > 0.5 and asks[0] < 0.2


def _refuse_swapped(chosen: _Columns, pairs: Sequence[Pair], where: Sequence[str]) -> None:
    if looks_swapped(pairs):
        lengths = [
            median(len(text.split()) for text in texts) for texts in zip(*((p.query, p.positive) for p in pairs), strict=True)
        ]
        positives = [p.positive for p in pairs]
        first = next(i for i, text in enumerate(positives) if _ASKS.search(text.strip()))
        raise BadInput(
            f"{where[first]}: the columns look swapped: '{chosen.query}' holds {lengths[0]:.0f} words a row and '{chosen.positive}' "
            f"{lengths[1]:.0f}, most of them questions ({positives[first][:40]!r}). "
            f"Read them the other way round: --columns query={chosen.positive},positive={chosen.query} (or --allow-swapped if this is meant)."
        )


def _said(path: Path, chosen: _Columns, found: Sequence[str], pairs: Sequence[Pair]) -> str:
    used = [chosen.query, chosen.positive, *chosen.negatives]
    parts = [f"query from '{chosen.query}'", f"positive from '{chosen.positive}'"]
    negatives = [len(p.negatives) for p in pairs]
    if max(negatives):
        names = [
            *([f"{chosen.negatives[0]}"] if chosen.negatives else []),
            *([chosen.negatives[-1]] if len(chosen.negatives) > 1 else []),
        ]
        columns = "..".join(names) or chosen.lists
        counts = f"{min(negatives)} to {max(negatives)} hard negatives"
        if min(negatives) == max(negatives):
            counts = counted(max(negatives), "hard negative")
        parts.append(f"{counts} from '{columns}'")
    for name in ("score", "group", "source", "teacher_scores", "mined"):
        column = getattr(chosen, name)
        if column:
            used.append(column)
            shown = "where the negatives were mined" if name == "mined" else name
            parts.append(shown if name == column else f"{shown} from '{column}'")
    ignored = [name for name in found if name not in used and name != chosen.lists]
    tail = f"; not used: {', '.join(ignored)}" if ignored else ""
    return f"{path.name}: {counted(len(pairs), 'pair')}, {', '.join(parts)}{tail}"


def _semicolons(found: Sequence[str]) -> bool:
    return len(found) == 1 and ";" in found[0]


def write_pairs(path: Path | str, pairs: Iterable[Pair]) -> None:
    """Write pairs in the format of the name, atomically; `read_pairs` gives them back equal. Columns without a value are left out."""
    records: list[dict[str, Any]] = []
    for pair in pairs:
        negatives = list(pair.negatives) or None
        records.append(
            {
                "query": pair.query,
                "positive": pair.positive,
                "negatives": negatives,
                "group": pair.group,
                "score": pair.score,
                "source": pair.source,
                "teacher_scores": list(pair.teacher_scores) or None,
                "mined": [one._asdict() for one in pair.mined] or None,
            }
        )
    used = [
        name
        for name in ("query", "positive", "negatives", "group", "score", "source", "teacher_scores", "mined")
        if name in ("query", "positive") or any(r[name] is not None for r in records)
    ]
    write_table(Path(path), used, records)

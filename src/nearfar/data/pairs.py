"""Pairs on disk: the columns as people have them, understood once and said in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from nearfar.data.broken import LeftOut, NoPicture, refuse_too_many, tell
from nearfar.data.formats import Row, refuse_halves, write_table
from nearfar.data.pair_facts import mined_of, teacher_scores
from nearfar.data.picture_columns import BESIDE, cell_of, picture_of, plan, several
from nearfar.data.picture_groups import group_shared
from nearfar.data.picture_tables import open_table
from nearfar.data.text import counted
from nearfar.errors import BadInput
from nearfar.types import Pair, Picture

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
    left_out: tuple[LeftOut, ...] = ()
    """Rows whose picture is missing or empty."""


class _Columns(NamedTuple):
    query: str | None  # None where all of them are in a column of pictures beside it
    positive: str | None
    negatives: list[str]  # single-text columns, in order
    lists: str | None
    score: str | None
    group: str | None
    source: str | None
    teacher_scores: str | None
    mined: str | None
    pictures: frozenset[str] = frozenset()
    beside: Mapping[str, str] = {}  # by role the column of pictures beside that of texts
    base: Path = Path()


_PEEKED = 64
"""Rows looked at to tell columns of pictures."""


def read_pairs(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    allow_swapped: bool = False,
    refused: list[BadInput] | None = None,
) -> PairFile:
    """Read pairs from JSONL (.gz too), CSV, TSV, Parquet, a folder written by `datasets`, a folder of pictures, or webdataset shards (.tar).

    `columns` maps our names to the file's (`{"query": "title"}`); others are found by the usual names (`NAMES`), in capitals too. Hard negatives
    come as `negative`, `negative_1..n` (empty cells are skipped) or a `negatives` list of any length (JSON text in CSV), a teacher's
    scores of the positive and each of them as a list `teacher_scores`, and where each came from as a list `mined` (`nearfar mine` writes it).
    Pictures (`docs/images.md`): a column `image`, `image_path`, `file_name`, ... holds paths (from the file's folder) or bytes, beside `caption`, `text`, ... or a `label`; a list of
    captions or of pictures in a cell makes a pair of each. A row whose picture is missing or empty goes to `left_out`; more than 5 % of them is an error.
    Raises `BadInput` with file and line for anything that is missing, empty, torn, or looks swapped (unless `allow_swapped`). A line or row that is
    no pair goes to `refused`, where that is given, instead of ending the reading; what cannot be read as rows is raised all the same.
    """
    path = Path(path)
    table, base, kind = open_table(path, refused)
    if refused and not table.columns:
        raise refused[0]
    rows = iter(table.rows)
    first = list(islice(rows, _PEEKED))
    chosen = _understand(path, table.columns, columns or {}, [row.values for row in first], base)
    pairs: list[Pair] = []
    where: list[str] = []
    left_out: list[LeftOut] = []
    total = 0
    for row in chain(first, rows):
        total += 1
        try:
            made = _pairs(row, chosen)
        except NoPicture as error:
            if refused is not None:
                refused.append(error)
            left_out.append(LeftOut(row.where, str(error).removeprefix(f"{row.where}: ")))
            continue
        except BadInput as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        pairs += made
        where += [row.where] * len(made)
    if refused is None:
        refuse_too_many(str(path), left_out, total)
    if not pairs and refused:
        raise refused[0]
    if not pairs:
        raise BadInput(f"{path}: a header but no rows. Expected a row per pair.")
    if not allow_swapped and not chosen.pictures:
        _refuse_swapped(chosen, pairs, where)
    said = _said(path, kind, chosen, table.columns, pairs) + (f"; {tell(left_out)}" if left_out else "")
    if chosen.pictures:
        pairs, wide = group_shared(pairs)
        said += f"; {wide:,} pairs share captions and pictures too widely to be one thing, and have no group" if wide else ""
    return PairFile(path, pairs, where, said, tuple(left_out))


def _understand(
    path: Path, found: Sequence[str], mapping: Mapping[str, str], samples: Sequence[Mapping[str, Any]], base: Path
) -> _Columns:
    for ours, theirs in mapping.items():
        if ours not in NAMES:
            raise BadInput(
                f"{path}: '{ours}' is not one of ours. A mapping names {', '.join(NAMES)}: --columns query=TITLE,positive=BODY."
            )
        if theirs not in found:
            raise BadInput(f"{path}:1: there is no column '{theirs}' (asked for as {ours}). Found: {', '.join(found)}.")
    mapping, pictures, beside = plan(found, mapping, samples, base, NAMES)
    taken = set(mapping.values()) | set(beside.values())

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
        if picked[ours] is None and ours not in beside:
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
        picked["query"],
        picked["positive"],
        single,
        picked["negatives"],
        picked["score"],
        picked["group"],
        picked["source"],
        picked["teacher_scores"],
        picked["mined"],
        pictures,
        beside,
        base,
    )


def _items(row: Row, column: str | None, role: str, chosen: _Columns) -> list[str]:
    """What stands for the query, or the positive, of a row: one text or picture, or several of a list."""
    pictures = chosen.beside.get(role)
    if pictures is not None and (column is None or row.values.get(pictures) not in (None, "")):
        return list(several(row, pictures, chosen.base))
    assert column is not None
    if column in chosen.pictures:
        return list(several(row, column, chosen.base))
    cell = row.values.get(column)
    if isinstance(cell, list) and chosen.pictures:  # several captions of one picture
        return [_text(Row(row.where, {f"{column}[{i}]": one}), f"{column}[{i}]") for i, one in enumerate(cell)]
    return [_text(row, column)]


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


def _negatives(row: Row, chosen: _Columns) -> list[str]:
    """The hard negatives of a row: those of single cells, then those of its lists (texts, pictures, or both, each in the other's gaps)."""
    cells = [(name, row.values.get(name)) for name in chosen.negatives]
    found: list[str] = [
        picture_of(row.where, name, cell, chosen.base) if name in chosen.pictures else _text(row, name)
        for name, cell in cells
        if cell not in (None, "")
    ]
    texts = _cell_list(row, chosen.lists)
    pictures = _cell_list(row, chosen.beside.get("negatives"))
    if texts and pictures and len(texts) != len(pictures):
        raise BadInput(
            f"{row.where}: '{chosen.lists}' has {len(texts)} entries and '{BESIDE['negatives']}' {len(pictures)}. Leave a null in one where the other has an entry."
        )
    for i in range(max(len(texts), len(pictures))):
        if pictures and pictures[i] is not None:
            found.append(picture_of(row.where, f"{BESIDE['negatives']}[{i}]", pictures[i], chosen.base))
        elif chosen.lists in chosen.pictures:
            found.append(picture_of(row.where, f"{chosen.lists}[{i}]", texts[i], chosen.base))
        else:
            name = f"{chosen.lists}[{i}]"
            found.append(_text(Row(row.where, {name: texts[i] if texts else None}), name))
    return found


def _pairs(row: Row, chosen: _Columns) -> list[Pair]:
    """The pairs of a row: one, or of several captions or pictures one for each."""
    negatives = _negatives(row, chosen)
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

    teacher = teacher_scores(row, chosen.teacher_scores, len(negatives)) if chosen.teacher_scores else ()
    mined = mined_of(row, chosen.mined, len(negatives)) if chosen.mined else ()
    queries = _items(row, chosen.query, "query", chosen)
    if chosen.query == chosen.positive:  # each picture with itself
        both = [(one, one) for one in queries]
    else:
        both = list(product(queries, _items(row, chosen.positive, "positive", chosen)))
    facts = (tuple(negatives), label(chosen.group), score, label(chosen.source), teacher, mined)
    return [Pair(query, positive, *facts) for query, positive in both]


def _cell_list(row: Row, column: str | None) -> list[Any]:
    """The entries of a list of hard negatives, as they stand; none without the column."""
    value = row.values.get(column) if column is not None else None
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
    return value


def drop_negatives(
    path: Path, found: Sequence[str], record: Mapping[str, Any], dropped: set[int], *, columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A record of the file `path` (whose columns are `found`) without the hard negatives of these numbers, counted as `Pair.negatives` counts them.

    Cells of single negatives become empty. Of the list, and of every other list with one entry for each hard negative (their scores, say) or one
    more before them (`teacher_scores`), the same entries go; all else stays as it is. `columns` as for `read_pairs`.
    """
    chosen = _understand(path, found, columns or {}, [record], path.parent)
    result = dict(record)
    cells = [name for name in chosen.negatives if record.get(name) not in (None, "")]
    total = len(_negatives(Row(str(path), record), chosen))
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
        if name in (chosen.lists, chosen.beside.get("negatives")):
            before, reach = -len(cells), in_list
        elif name == chosen.teacher_scores:
            before, reach = 1, total + 1
        else:
            before, reach = 0, total
        if len(entries) == reach:
            kept = [entry for place, entry in enumerate(entries) if place - before not in dropped or place < before]
            result[name] = json.dumps(kept, ensure_ascii=False) if is_text else kept
    return result


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


def _said(path: Path, kind: str, chosen: _Columns, found: Sequence[str], pairs: Sequence[Pair]) -> str:
    used: list[str | None] = [chosen.query, chosen.positive, *chosen.negatives, *chosen.beside.values()]
    parts = []
    for role in ("query", "positive"):
        column, pictures = getattr(chosen, role), chosen.beside.get(role)
        told = [] if column is None else [f"{role} {'(pictures) ' if column in chosen.pictures else ''}from '{column}'"]
        told += [] if pictures is None else [f"{role} (pictures) from '{pictures}'"]
        parts += told
    if chosen.query == chosen.positive:
        parts = [f"each picture of '{chosen.query}' with itself"]
    negatives = [len(p.negatives) for p in pairs]
    if max(negatives):
        names = [
            *([f"{chosen.negatives[0]}"] if chosen.negatives else []),
            *([chosen.negatives[-1]] if len(chosen.negatives) > 1 else []),
        ]
        columns = "..".join(names) or chosen.lists or chosen.beside.get("negatives")
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
    return f"{path.name}{kind}: {counted(len(pairs), 'pair')}, {', '.join(parts)}{tail}"


def _semicolons(found: Sequence[str]) -> bool:
    return len(found) == 1 and ";" in found[0]


def write_pairs(path: Path | str, pairs: Iterable[Pair]) -> None:
    """Write pairs in the format of the name, atomically; `read_pairs` gives them back equal. Columns without a value are left out.

    Pictures go into columns of their own (`query_image`, `positive_image`, `negative_images`), as paths from the file's folder; those that are bytes stay bytes, in Parquet alone
    (`BadInput` elsewhere).
    """
    path = Path(path)
    records: list[dict[str, Any]] = []
    for pair in pairs:
        pictures = [cell_of(one, path) if isinstance(one, Picture) else None for one in pair.negatives]
        texts = [None if isinstance(one, Picture) else one for one in pair.negatives]
        records.append(
            {
                "query": None if isinstance(pair.query, Picture) else pair.query,
                "query_image": cell_of(pair.query, path) if isinstance(pair.query, Picture) else None,
                "positive": None if isinstance(pair.positive, Picture) else pair.positive,
                "positive_image": cell_of(pair.positive, path) if isinstance(pair.positive, Picture) else None,
                "negatives": texts if any(one is not None for one in texts) else None,
                "negative_images": pictures if any(one is not None for one in pictures) else None,
                "group": pair.group,
                "score": pair.score,
                "source": pair.source,
                "teacher_scores": list(pair.teacher_scores) or None,
                "mined": [one._asdict() for one in pair.mined] or None,
            }
        )
    used = [name for name in (records[0] if records else ("query", "positive")) if any(r[name] is not None for r in records)]
    write_table(path, used or ["query", "positive"], records)

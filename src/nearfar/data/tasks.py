"""Tasks on disk: the BEIR folder (Thakur 2021, arXiv 2104.08663): corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.

A document or a query may be a picture: its row has `image`, the path of a file from the task's folder, in place of `text`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nearfar.data.formats import Row, read_table
from nearfar.data.picture_columns import picture_of
from nearfar.data.pictures import read_bytes
from nearfar.data.text import normalize
from nearfar.errors import BadInput
from nearfar.files import atomic_file, atomic_folder, settle_folder
from nearfar.types import Pair, Picture, Task

IMAGES = "images"
"""The subfolder of a written task for pictures whose names are no paths of their own."""
_OURS = ("corpus.jsonl", "queries.jsonl", "qrels")


class TaskFile(NamedTuple):
    """A task and, in one line, what was read."""

    task: Task
    understood: str


def read_corpus(path: Path | str) -> dict[str, str]:
    """Documents of a `corpus.jsonl`: id -> text, the title before the text unless the text begins with it; or a `Picture` where a row has `image`.

    A document may be empty (published collections hold some). Raises `BadInput` with file and line for a missing `_id`, a text
    that is none, an id that is there twice, and a picture that is not there.
    """
    path = Path(path)
    texts: dict[str, str] = {}
    for row in read_table(path).rows:
        key = _key(row, texts)
        title, text = (_optional_text(row, name).strip() for name in ("title", "text"))
        whole = text if text.startswith(title) else f"{title} {text}".strip()
        texts[key] = _picture(row, key, path, whole) or whole
    return texts


def read_task(folder: Path | str, *, split: str | None = None) -> TaskFile:
    """Read a BEIR folder. `split` names the file in `qrels/` (default: `test`, or the only one there).

    Queries without a relevant document are left out, and counted in the line. Raises `BadInput` with file and line for missing
    files, ids that nothing has, ids that are there twice, and grades that are not whole numbers.
    """
    folder = Path(folder)
    settle_folder(folder)
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder. A task is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (BEIR)."
        )
    for name in _OURS:
        if not (folder / name).exists():
            raise BadInput(
                f"{folder}: there is no {name}. A task is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv (BEIR)."
            )
    corpus = read_corpus(folder / "corpus.jsonl")
    queries: dict[str, str] = {}
    for row in read_table(folder / "queries.jsonl").rows:
        key = _key(row, queries)
        text = _optional_text(row, "text")
        queries[key] = _picture(row, key, folder / "queries.jsonl", text.strip()) or text
        if not queries[key].strip():
            raise BadInput(f"{row.where}: query '{key}' has no text and no image. Fill it in or drop the line.")
    judged = _read_qrels(_choose_split(folder / "qrels", split), corpus, queries)
    kept = {key: text for key, text in queries.items() if any(grade > 0 for grade in judged.get(key, {}).values())}
    if not kept:
        raise BadInput(f"{folder}/qrels: no query has a relevant document (a grade above 0). There is nothing to measure.")
    left = len(queries) - len(kept)
    understood = f"{folder.name}: {_count(corpus, 'documents')}, {_count(kept, 'queries')}" + (
        f" ({left:,} more without a relevant document left out)" if left else ""
    )
    return TaskFile(Task(folder.name, corpus, kept, {key: judged[key] for key in kept}), understood)


def _key(row: Row, taken: Mapping[str, str]) -> str:
    value = row.values.get("_id")
    if value is None or not str(value).strip():
        raise BadInput(f"{row.where}: '_id' is missing. Every document and every query needs one.")
    if str(value) in taken:
        raise BadInput(f"{row.where}: '_id' {str(value)!r} is there twice. Ids must be unique.")
    return str(value)


def _optional_text(row: Row, name: str) -> str:
    value = row.values.get(name, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{row.where}: '{name}' is {type(value).__name__}, expected text.")
    return value


def _picture(row: Row, key: str, path: Path, text: str) -> Picture | None:
    """The picture of a row that has one: a file (or a member of a shard), by its path from the task's folder, or bytes in a table's cell.

    Its name is that path as it is written, so a task that moves stays the same task.
    """
    value = row.values.get("image")
    if value is None or value == "":
        return None
    if text:
        raise BadInput(
            f"{row.where}: '{key}' has both an image and a text ({text[:40]!r}). An item is one of them: drop the other."
        )
    found = picture_of(row.where, "image", value, path.parent)
    named = value.get("path") if isinstance(value, dict) else value
    if found.data is not None or not isinstance(named, str):
        return found
    return Picture(named, file=found.file, offset=found.offset, size=found.size)


def _count(items: Mapping[str, str], what: str) -> str:
    """How many documents or queries, and how many of them are pictures."""
    pictures = sum(isinstance(item, Picture) for item in items.values())
    beside = "" if not pictures else " (pictures)" if pictures == len(items) else f" ({pictures:,} of them pictures)"
    return f"{len(items):,} {what}{beside}"


def _choose_split(folder: Path, split: str | None) -> Path:
    found = sorted(file.stem for file in folder.glob("*.tsv"))
    wanted = split or ("test" if "test" in found else found[0] if len(found) == 1 else None)
    if wanted is None or wanted not in found:
        what = f"no '{wanted}.tsv'" if wanted else "several splits and none is called test" if found else "no .tsv file"
        raise BadInput(f"{folder}: {what}. Found: {', '.join(found) or 'nothing'}. Choose one with --split.")
    return folder / f"{wanted}.tsv"


def _read_qrels(path: Path, corpus: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, dict[str, int]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    judged: dict[str, dict[str, int]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip() or (number == 1 and not fields[-1].strip().lstrip("-").isdigit()):
            continue  # blank, or BEIR's header query-id corpus-id score
        where = f"{path}:{number}"
        if len(fields) == 4:  # TREC's form has an unused second column
            fields = [fields[0], *fields[2:]]
        if len(fields) != 3:
            raise BadInput(f"{where}: {len(fields)} fields, expected query-id, corpus-id and grade, separated by tabs.")
        query, document, grade = fields
        if not grade.strip().lstrip("-").isdigit():
            raise BadInput(f"{where}: the grade is {grade!r}, expected a whole number (0 is not relevant).")
        if query not in queries:
            raise BadInput(f"{where}: no query has the id {query!r}. Add it to queries.jsonl or drop the line.")
        if document not in corpus:
            raise BadInput(f"{where}: no document has the id {document!r}. Add it to corpus.jsonl or drop the line.")
        judged.setdefault(query, {})[document] = int(grade)
    return judged


def write_task(folder: Path | str, task: Task, *, split: str = "test") -> None:
    """Write a task as a BEIR folder, atomically; `read_task` gives it back equal.

    Pictures are copied into the folder, under their names; one whose name is an absolute path stays where it is and is named. A name
    that leads elsewhere (`../x.png`, a member of a shard, bytes of a cell) is replaced by `images/NUMBER`. Raises `BadInput` where a picture cannot be read.
    """

    def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
        with atomic_file(path, "w") as handle:
            handle.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    with atomic_folder(folder) as temporary:
        corpus = _copied(task.corpus, temporary, f"{IMAGES}/d")
        queries = _copied(task.queries, temporary, f"{IMAGES}/q")
        write_lines(
            temporary / "corpus.jsonl",
            (
                {"_id": key, **({"image": text} if isinstance(text, Picture) else {"title": "", "text": text})}
                for key, text in corpus
            ),
        )
        write_lines(
            temporary / "queries.jsonl",
            ({"_id": key, "image" if isinstance(text, Picture) else "text": text} for key, text in queries),
        )
        with atomic_file(temporary / "qrels" / f"{split}.tsv", "w") as handle:
            handle.write("query-id\tcorpus-id\tscore\n")
            handle.writelines(
                f"{query}\t{document}\t{grade}\n"
                for query, grades in task.judgements.items()
                for document, grade in grades.items()
            )


def _copied(items: Mapping[str, str], folder: Path, other: str) -> Iterator[tuple[str, str]]:
    """The items, each picture with the name by which the folder will know it, its bytes put there."""
    for number, (key, item) in enumerate(items.items()):
        if not isinstance(item, Picture) or (item.file == Path(item) and Path(item).is_absolute()):
            yield key, item
            continue
        plain = "#" not in item and all(part not in ("", ".", "..") and ":" not in part for part in item.split("/"))
        name = item if plain and item.split("/")[0] not in _OURS else Picture(f"{other}{number}{_ending(item)}")
        data = read_bytes(item)
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        yield key, name


def _ending(name: str) -> str:
    ending = Path(name).suffix
    return ending if ending[1:].isalnum() else ""


def turn(task: Task, name: str | None = None) -> Task:
    """The same judgements asked the other way: its documents look for its queries (pictures for their captions). Those without one do not ask."""
    judged: dict[str, dict[str, int]] = {}
    for query, grades in task.judgements.items():
        for document, grade in grades.items():
            if grade > 0:
                judged.setdefault(document, {})[query] = grade
    asking = {key: item for key, item in task.corpus.items() if key in judged}
    return Task(name or f"{task.name} turned", task.queries, asking, judged)


def task_from_pairs(name: str, pairs: Iterable[Pair], distractors: Iterable[str] = ()) -> Task:
    """Judge by pairs: every distinct query finds its positives (grade 1) among all positives and `distractors`.

    Texts that are equal after normalization are one query or one document.
    """
    corpus: dict[str, str] = {}
    document_of: dict[str, str] = {}
    queries: dict[str, str] = {}
    query_of: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}

    def add(text: str, texts: dict[str, str], of: dict[str, str], prefix: str) -> str:
        identity = normalize(text)
        if identity not in of:
            of[identity] = f"{prefix}{len(texts)}"
            texts[of[identity]] = text
        return of[identity]

    for pair in pairs:
        query = add(pair.query, queries, query_of, "q")
        judged.setdefault(query, {})[add(pair.positive, corpus, document_of, "d")] = 1
    for text in distractors:
        add(text, corpus, document_of, "d")
    return Task(name, corpus, queries, judged)

"""Semantic search over Python itself: the documented functions, classes and methods of the standard library and of what is installed.

The query is the first sentence of a docstring, the document the qualified name, the signature and the rest of it. Whole packages are
held out, and what nearly repeats across the split is dropped from training, so that a score on the held-out side is earned.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfar.data.near_duplicates import near_duplicates
from nearfar.data.pairs import read_pairs, write_pairs
from nearfar.data.sources.docstrings import Entry, FileEntries, read_file
from nearfar.data.tasks import read_task, write_task
from nearfar.data.text import normalize
from nearfar.errors import BadInput, NearfarError
from nearfar.files import atomic_folder, read_json, write_json
from nearfar.types import Pair, Progress, Task, silent

_FORMAT = "nearfar-python-docs/1"
_LEFT_OUT = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "ensurepip"}
_FILES_AT_ONCE = 32
_MOST_OF_ONE_NAME = 3
"""A sentence that more things share than this (generated docstrings) asks for none of them."""


class Source(NamedTuple):
    """One file and the module that it is."""

    path: Path
    module: str


@dataclass(frozen=True)
class PythonDocs:
    """Pairs to train on, a task to choose by and a task to judge by, of different packages; and what was dropped, by reason."""

    train: list[Pair]
    dev: Task
    task: Task
    dropped: dict[str, int]
    packages: dict[str, list[str]]
    """Side ("train", "dev", "task") -> its packages."""

    @property
    def understood(self) -> str:
        """What was found, in one line."""
        return (
            f"{len(self.train):,} pairs to train on from {len(self.packages['train'])} packages; held out {len(self.dev.queries):,} "
            f"queries to choose the checkpoint and {len(self.task.queries):,} to judge ({len(self.packages['task'])} packages)"
        )

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "train": len(self.train),
            "dev": len(self.dev.queries),
            "held_out": len(self.task.queries),
            "documents": len(self.task.corpus),
            "dropped": dict(self.dropped),
        }


def read_python_docs(
    *,
    cache: Path | None = None,
    seed: int = 0,
    held_out: int = 2500,
    dev: int = 800,
    roots: Sequence[tuple[str, Path]] | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> PythonDocs:
    """Walk, read, split by package and drop what repeats; `held_out` and `dev` are about how many queries each side gets.

    `roots` are (package name or "" for a folder of packages, folder or file); default: the standard library and the packages that nearfar
    requires. Reads with `ast` in `workers` processes, imports and runs nothing. `cache` is a folder where the result is kept and read back
    from while Python, the packages and the arguments are the same. Raises `BadInput` where too little is found.
    """
    chosen = list(roots) if roots is not None else [*standard_library(), *dependencies()]
    sources = sorted({s.module: s for name, path in chosen for s in _sources(name, path)}.values(), key=lambda s: s.module)
    key = _content_key(sources, seed, held_out, dev)
    if cache is not None and (kept := _read_cache(cache, key)) is not None:
        return kept
    found = _read_all(sources, workers, progress)
    dropped = Counter(
        {"file does not parse": sum(bool(f.problem) for f in found), "no sentence": sum(f.without for f in found)}
    )
    entries = _distinct([e for f in found for e in f.entries], dropped)
    made = _split(entries, seed, held_out, dev, dropped, progress)
    if cache is not None:
        _write_cache(cache, key, made)
    return made


def standard_library() -> list[tuple[str, Path]]:
    """The folder of the standard library, as roots."""
    return [("", Path(sysconfig.get_path("stdlib")))]


def dependencies(name: str = "nearfar") -> list[tuple[str, Path]]:
    """The packages that `name` requires, and theirs in turn, without extras: import names and folders. Only what is installed."""
    from packaging.requirements import Requirement

    seen, waiting, roots = {name}, [name], []
    while waiting:
        current = waiting.pop()
        try:
            found = distribution(current)
        except PackageNotFoundError:
            continue
        if current != name:
            roots += _packages_of(found)
        for text in found.requires or []:
            requirement = Requirement(text)
            wanted = requirement.name.lower().replace("_", "-")
            if wanted not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                seen.add(wanted)
                waiting.append(wanted)
    return sorted(roots)


def _packages_of(found: Any) -> list[tuple[str, Path]]:
    tops = {file.parts[0] for file in found.files or [] if file.suffix == ".py" and file.parts[0] not in ("..", "__pycache__")}
    base = Path(str(found.locate_file("")))
    return [(top.removesuffix(".py"), base / top) for top in sorted(tops) if not top.endswith((".dist-info", ".data"))]


def _sources(name: str, path: Path) -> Iterable[Source]:
    if path.is_file():
        yield Source(path, name)
        return
    for file in sorted(path.rglob("*.py")):
        parts = file.relative_to(path).with_suffix("").parts
        # private modules are nobody's to search for
        private = any(part.startswith("_") and part != "__init__" for part in parts)
        if private or _LEFT_OUT & set(parts) or any(part.startswith("test_") for part in parts):
            continue
        module = ".".join([*([name] if name else []), *(parts[:-1] if parts[-1] == "__init__" else parts)])
        if module and all(part.isidentifier() for part in module.split(".")):
            yield Source(file, module)


def _read_all(sources: Sequence[Source], workers: int, progress: Progress) -> list[FileEntries]:
    """Every file, in order, whatever the number of processes."""
    chunks = [sources[i : i + _FILES_AT_ONCE] for i in range(0, len(sources), _FILES_AT_ONCE)]
    progress("read", 0, len(sources))
    found: list[FileEntries] = []
    if workers <= 1 or len(chunks) < 4:
        for chunk in chunks:
            found += _read_chunk(chunk)
            progress("read", len(found), len(sources))
        return found
    # spawned, not forked: a forked child of a process with threads (torch) can hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(_read_chunk, chunks):
            found += part
            progress("read", len(found), len(sources))
    return found


def _read_chunk(chunk: Sequence[Source]) -> list[FileEntries]:
    return [read_file(source.path, source.module) for source in chunk]


def _distinct(entries: Sequence[Entry], dropped: Counter[str]) -> list[Entry]:
    """One entry per name, none whose document another has, and no sentence that many things share."""
    names: set[str] = set()
    documents: set[str] = set()
    kept = []
    for found in entries:
        answer = normalize(found.document.split("\n", 1)[1]) if "\n" in found.document else ""
        if found.name in names:
            dropped["name repeats"] += 1
        elif len(answer) > 200 and answer in documents:
            dropped["same documentation"] += 1
        else:
            names.add(found.name)
            documents.add(answer)
            kept.append(found)
    shared = Counter(normalize(found.query) for found in kept)
    few = [found for found in kept if shared[normalize(found.query)] <= _MOST_OF_ONE_NAME]
    dropped["sentence of many things"] = len(kept) - len(few)
    return few


def package_of(name: str, crowded: set[str]) -> str:
    """The package that decides the side: one level of the standard library's modules, two of a package, three of a crowded one."""
    parts = name.split(".")
    top = parts[0]
    # importlib.abc.Loader.load_module and shlex.split: a module's own names are no packages
    deep = [part for part in parts[1:-1] if not part[:1].isupper()]
    if top in sys.stdlib_module_names:
        return top
    two = ".".join([top, *deep[:1]])
    return ".".join([top, *deep[:2]]) if two in crowded else two


def _split(
    entries: Sequence[Entry], seed: int, held_out: int, dev: int, dropped: Counter[str], progress: Progress
) -> PythonDocs:
    counts = Counter(package_of(e.name, set()) for e in entries)
    crowded = {package for package, count in counts.items() if count > max(20, len(entries) // 20)}
    of = [package_of(e.name, crowded) for e in entries]
    counts = Counter(of)
    side = _sides(counts, seed, held_out, dev)
    if not set(side.values()) >= {"train", "dev", "task"}:
        raise BadInput(
            f"python docs: {len(entries):,} documented things in {len(counts)} packages do not split into three sides. "
            "Ask for fewer held-out queries, or give more packages."
        )
    by_side = {name: [e for e, p in zip(entries, of, strict=True) if side[p] == name] for name in ("train", "dev", "task")}
    progress("split", 0, 1)
    # a query on both held-out sides would let the dev side choose by the judge's answers
    judged = by_side["task"]
    chosen = _unlike(by_side["dev"], judged, "near duplicate: dev of held out", dropped)
    training = _unlike(by_side["train"], [*judged, *chosen], "near duplicate: training of held out", dropped)
    progress("split", 1, 1)
    return PythonDocs(
        [Pair(e.query, e.document, group=None, source=e.name) for e in training],
        _task("python docs (dev)", chosen),
        _task("python docs", judged),
        {reason: count for reason, count in sorted(dropped.items()) if count},
        {name: sorted(p for p in counts if side[p] == name) for name in ("train", "dev", "task")},
    )


def _sides(counts: Counter[str], seed: int, held_out: int, dev: int) -> dict[str, str]:
    """Packages in seeded order fill the judging side, then the dev side; no package takes more than an eighth of a side."""
    order = sorted(counts, key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    side: dict[str, str] = dict.fromkeys(order, "train")
    for name, wanted in (("task", held_out), ("dev", dev)):
        taken = 0
        for package in order:
            fits = taken + counts[package] <= wanted and counts[package] <= max(wanted // 8, 1)
            if side[package] == "train" and fits:
                side[package] = name
                taken += counts[package]
    return side


def _unlike(entries: Sequence[Entry], held: Sequence[Entry], reason: str, dropped: Counter[str]) -> list[Entry]:
    """The entries whose query is near no held query and whose answer is near no held answer."""
    queries = near_duplicates([e.query for e in entries], [h.query for h in held])
    answers = near_duplicates([_answer(e) for e in entries], [_answer(h) for h in held])
    kept = [e for e, q, a in zip(entries, queries, answers, strict=True) if not (q or a)]
    dropped[reason] += len(entries) - len(kept)
    return kept


def _answer(found: Entry) -> str:
    """The document without the place of its name: a method copied into another class is still the same."""
    return found.document[found.document.index(found.name.rpartition(".")[2]) :]


def _task(name: str, entries: Sequence[Entry]) -> Task:
    """Each thing's sentence finds it; things that share a sentence are all right answers to it."""
    queries: dict[str, str] = {}
    first: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    for e in entries:
        query = first.setdefault(normalize(e.query), e.name)
        queries.setdefault(query, e.query)
        judged.setdefault(query, {})[e.name] = 1
    return Task(name, {e.name: e.document for e in entries}, queries, judged)


def _content_key(sources: Sequence[Source], seed: int, held_out: int, dev: int) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, sys.version, seed, held_out, dev]).encode())
    for source in sources:
        status = source.path.stat()
        digest.update(f"{source.module}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write_cache(cache: Path, key: str, made: PythonDocs) -> None:
    with atomic_folder(cache) as target:
        write_pairs(target / "train.jsonl", made.train)
        write_task(target / "dev", made.dev)
        write_task(target / "task", made.task)
        write_json(
            target / "manifest.json",
            {"key": key, "dropped": made.dropped, "packages": made.packages, "names": [made.dev.name, made.task.name]}
            | {"pairs": len(made.train)},
        )


def _read_cache(cache: Path, key: str) -> PythonDocs | None:
    """What was kept, None where there is nothing, it is of other content, or it is damaged (then it is made anew)."""
    try:
        told = read_json(cache / "manifest.json")
        if told["key"] != key:
            return None
        dev, task = (read_task(cache / name).task for name in ("dev", "task"))
        pairs = read_pairs(cache / "train.jsonl").pairs
        if len(pairs) != told["pairs"]:
            return None
        names = told["names"]
        return PythonDocs(
            list(pairs),
            Task(names[0], dev.corpus, dev.queries, dev.judgements),
            Task(names[1], task.corpus, task.queries, task.judgements),
            told["dropped"],
            told["packages"],
        )
    except (NearfarError, KeyError, TypeError, OSError):
        return None


def examples(docs: PythonDocs, count: int, *, seed: int = 0) -> list[Pair]:
    """A few short training pairs to show, the same for the same seed."""
    short = [p for p in docs.train if len(p.query) < 80 and 60 < len(p.positive) < 400 and re.search(r"\n", p.positive)]
    order = np.random.default_rng(seed).permutation(len(short))[:count]
    return [short[i] for i in order]

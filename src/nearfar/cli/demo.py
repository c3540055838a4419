"""The whole story on real data: pairs, baselines, training, proof, report, search, and what to type next."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from nearfar.cli.run_report import headline, report_run
from nearfar.data.sources import PythonDocs, examples, read_python_docs
from nearfar.data.tasks import write_task
from nearfar.data.text import shorten
from nearfar.encoders import load_encoder
from nearfar.errors import BadInput
from nearfar.evaluation import Comparison, Evaluation, compare, evaluate, score_table
from nearfar.index import open_index
from nearfar.retrieval import build_index, search
from nearfar.training import Config, train
from nearfar.types import Progress

SEARCHES = (
    "split a shell command line into words",
    "read a table from a file into memory",
    "apply a function to every element and cache the results",
)
_METRICS = ("ndcg@10", "recall@10", "mrr@10")

Say = Callable[[str], None]


def tell(out: Path, *, pairs: int | None, progress: Progress, say: Say) -> dict[str, Any]:
    """Run the demo into `out` and return what `nearfar demo --json` prints. An earlier demo at `out` is replaced.

    Raises `BadInput` where `out` holds something else, `Missing` where the stock MiniLM is not installed.
    """
    _clear(out)
    marks: dict[str, float] = {}
    began = perf_counter()

    def lap(name: str) -> None:
        marks[name] = round(perf_counter() - began - sum(marks.values()), 2)

    say("1. Data: semantic search over Python itself. The first sentence of a docstring looks for the rest of it.\n")
    docs = read_python_docs(cache=out / "data", progress=progress)
    chosen = docs.train[:pairs] if pairs else docs.train
    _show_data(docs, len(chosen), say)
    lap("data")
    say("2. Baselines on the held-out queries: BM25, a static table made from MiniLM, MiniLM itself.\n")
    systems = [evaluate("bm25", docs.task, metrics=_METRICS, name="bm25", progress=progress)]
    for name, model in (("static_stock", "static"), ("minilm_stock", "minilm")):
        found = load_encoder(model, progress=progress)
        systems.append(evaluate(found, docs.task, metrics=_METRICS, name=name, progress=progress))
    say(score_table(systems) + "\n")
    lap("baselines")
    say("3. Training the static table on the pairs; the loss compares each query with every document of its batch.\n")
    result = train(chosen, out=out, encoder="static", config=Config(), dev=docs.dev, task=docs.task, progress=progress)
    assert result.trained is not None
    say(f"\n   {result.pairs:,} pairs, {result.steps} steps, {result.pairs_per_second:,.0f} pairs a second.\n")
    lap("training")
    say(f"4. Did it help? {len(result.trained.query_ids):,} queries from packages that training never saw.\n")
    systems.append(result.trained)
    comparisons = [compare(result.trained, other, metric) for metric in _METRICS for other in systems[:-1]]
    say(score_table(systems, [c for c in comparisons if c.metric == "ndcg@10"]) + "\n")
    for sentence in headline(comparisons):
        say(f"   {sentence}")
    lap("judging")
    encoder = load_encoder(out)
    report = report_run(
        result,
        title="Semantic search over Python itself",
        subtitle=docs.understood,
        evaluations=systems,
        comparisons=comparisons,
        against=systems[1],
        encoder=encoder,
        seconds=marks,
    )
    say(f"\n5. The report, with pictures: {report}\n")
    lap("report")
    _search_it(out, docs, encoder, say)
    lap("search")
    marks["total"] = round(perf_counter() - began, 2)
    return _told(docs, len(chosen), systems, comparisons, marks, out)


def _clear(out: Path) -> None:
    """Make room for the demo; its data, which take longest, stay."""
    if not out.exists():
        return
    if not out.is_dir() or not (not any(out.iterdir()) or (out / "data" / "manifest.json").exists()):
        raise BadInput(f"{out}: this is not an earlier demo. Give another folder: nearfar demo -o FOLDER.")
    for place in out.iterdir():
        if place.name != "data":
            shutil.rmtree(place) if place.is_dir() else place.unlink()


def _show_data(docs: PythonDocs, used: int, say: Say) -> None:
    say(f"   {docs.understood}")
    if used < len(docs.train):
        say(f"   trained on the first {used:,} of them, as asked")
    say("   dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in docs.dropped.items()) + "\n")
    for pair in examples(docs, 3):
        name, _, rest = pair.positive.partition("\n")
        say(f"   query     {shorten(pair.query)}\n   document  {shorten(name)}\n             {shorten(rest)}\n")


def _search_it(out: Path, docs: PythonDocs, encoder: Any, say: Say) -> None:
    corpus = {str(p.source): p.positive for p in docs.train} | dict(docs.task.corpus)
    folder = out / "index"
    build_index(encoder, corpus, name=str(out.resolve())).save(folder)
    say(f"6. An index of {len(corpus):,} documents ({folder}), searched:\n")
    for query, hits in zip(SEARCHES, search(open_index(folder), encoder, SEARCHES, 3), strict=True):
        say(f"   > {query}")
        for place, hit in enumerate(hits, 1):
            say(f"   {place}. {hit.score:.3f}  {shorten(hit.text, 84)}")
        say("")
    write_task(out / "task", docs.task)
    say("Next:")
    say(f"   nearfar search {folder} 'your own question about Python'")
    say(f"   nearfar compare {out} minilm --task {out / 'task'}")
    say("   nearfar train your_pairs.csv -o runs/mine       (columns: query, positive)")


def _told(
    docs: PythonDocs,
    used: int,
    systems: list[Evaluation],
    comparisons: list[Comparison],
    seconds: dict[str, float],
    out: Path,
) -> dict[str, Any]:
    return {
        "pairs": docs.to_json() | {"used": used},
        "systems": {found.system: found.summary() for found in systems},
        "comparisons": [found.to_json() for found in comparisons],
        "seconds": seconds,
        "run": str(out),
    }

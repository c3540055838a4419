"""Does tuning MiniLM help on a real collection? The start beside the tuned model on queries that neither training nor the choice of the checkpoint saw.

    python benchmarks/tuning.py FOLDER [FOLDER ...] [--pairs 2000] [--folds 3] [--set epochs=3 ...] [--json]

A FOLDER with `pairs.jsonl` and `task/` is trained on (a draw of) its pairs and judged by its task. A BEIR folder alone is judged by cross-validation: the queries
are cut into folds, each judged by a model trained on the other folds' queries with the documents judged relevant to them. Every run is `nearfar.train` as it
comes, which holds out dev queries of its own and keeps the start where they do not show a checkpoint to be better.

Prints nDCG@10 of both, the paired difference with its 95 % interval and p-value over all queries. Exit 1 where not every collection is improved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nearfar.data.pairs import read_pairs
from nearfar.data.tasks import read_task
from nearfar.metrics.significance import paired_difference
from nearfar.training import parse_settings, train
from nearfar.types import Pair, Task


def folds_of(task: Task, count: int) -> Iterator[tuple[list[Pair], Task]]:
    """(pairs to train on, the task that judges them) of each fold."""
    queries = list(task.queries)
    part = np.random.default_rng(0).permutation(len(queries)) % count
    for fold in range(count):
        judging = [q for q, own in zip(queries, part.tolist(), strict=True) if own == fold]
        pairs = [
            Pair(task.queries[q], task.corpus[d], group=q)
            for q in queries
            if q not in set(judging)
            for d, grade in task.judgements[q].items()
            if grade > 0
        ]
        yield (
            pairs,
            Task(task.name, task.corpus, {q: task.queries[q] for q in judging}, {q: task.judgements[q] for q in judging}),
        )


def material(folder: Path, pairs: int, folds: int) -> Iterator[tuple[list[Pair], Task]]:
    if not (folder / "pairs.jsonl").exists():
        yield from folds_of(read_task(folder).task, folds)
        return
    every = read_pairs(folder / "pairs.jsonl").pairs
    chosen = np.random.default_rng(0).permutation(len(every))[:pairs]
    yield [every[i] for i in chosen.tolist()], read_task(folder / "task").task


def measure(folder: Path, pairs: int, folds: int, settings: Sequence[str]) -> dict[str, object]:
    """What tuning came to on one collection."""
    start, tuned, trained_on, kept_start = [], [], 0, 0
    for training, task in material(folder, pairs, folds):
        with tempfile.TemporaryDirectory() as out:
            result = train(training, out=Path(out) / "run", encoder="minilm", config=parse_settings(settings), task=task)
        assert result.start is not None
        assert result.trained is not None
        start.append(result.start.metrics["ndcg@10"])
        tuned.append(result.trained.metrics["ndcg@10"])
        trained_on += result.pairs
        kept_start += result.best_step == 0
    a, b = np.concatenate(tuned), np.concatenate(start)
    shown = paired_difference(a, b, seed=0)
    return {
        "collection": folder.name,
        "pairs": trained_on,
        "runs": len(start),
        "start_kept": kept_start,
        "queries": len(a),
        "start": float(b.mean()),
        "tuned": float(a.mean()),
        "difference": shown.difference,
        "low": shown.low,
        "high": shown.high,
        "p": shown.p,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = []
    for folder in asked.folders:
        found.append(measure(folder, asked.pairs, asked.folds, asked.settings))
        if not asked.json:
            print(
                "{collection}: {queries:,} queries, {pairs:,} pairs in {runs} run(s) ({start_kept} kept the start), nDCG@10 {start:.3f} -> {tuned:.3f}, "
                "{difference:+.3f} [{low:+.3f}, {high:+.3f}], p {p:.4f}".format(**found[-1]),
                flush=True,
            )
    if asked.json:
        print(json.dumps(found))
    return 0 if all(f["p"] < 0.05 and f["difference"] > 0 for f in found) else 1


if __name__ == "__main__":
    sys.exit(main())

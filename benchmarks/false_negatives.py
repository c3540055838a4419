"""How many mined negatives are really positives, and which rules leave those out: measured where all relevant documents are known.

    python benchmarks/false_negatives.py TASK [TASK ...] [--model static] [--guide minilm] [--depth 50] [--json]

Of each query of a judged collection one relevant document (the best graded) stands as its only known positive, as in pairs. The `model` finds the `depth`
nearest other documents: those among them that are judged relevant are false negatives. Each rule drops some of the list, by the model's own scores or by the
guide's. Of what it drops, `precision` is the share that is relevant, `recall` the share of all relevant ones in the list; `false` is the share of relevant ones
among the first five it lets pass, `kept` the share of queries for which five pass. Without any rule: the row `none`. Documents nobody judged count as not relevant.

Ends with exit 1 where, on some collection, the guide at 0.95 does not halve the share of false negatives, or the model's own score lets five pass as often.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nearfar.data.tasks import read_task
from nearfar.embedding import embed
from nearfar.encoders import load_encoder
from nearfar.mining import NegativeRule
from nearfar.mining.rule import PASSED, choose, judge
from nearfar.similarity import topk
from nearfar.types import Task

COUNT = 5
RULES = {
    "none": {"below_positive": None},
    "below 0.99": {"below_positive": 0.99},
    "below 0.95": {"below_positive": 0.95},
    "below 0.9": {"below_positive": 0.9},
    "below 0.8": {"below_positive": 0.8},
    "margin 0.05": {"below_positive": None, "margin": 0.05},
    "skip 5": {"below_positive": None, "skip_top": 5},
    "skip 10": {"below_positive": None, "skip_top": 10},
}
BY_GUIDE = ("below 0.99", "below 0.95", "below 0.9", "below 0.8", "margin 0.05")


class Found(NamedTuple):
    """The lists [q, k]: scores by the model and by the guide, which are relevant, and the positive's scores [q]."""

    scores: np.ndarray
    guide: np.ndarray
    relevant: np.ndarray
    positive: np.ndarray
    guide_positive: np.ndarray


def search(task: Task, model: str, guide: str, depth: int) -> Found:
    documents, queries = list(task.corpus), list(task.queries)
    place = {key: i for i, key in enumerate(documents)}
    own = np.array([place[max(task.judgements[q], key=lambda d: (task.judgements[q][d], d))] for q in queries])
    rows = {}
    for name in dict.fromkeys((model, guide)):
        encoder = load_encoder(name)
        texts = list(task.corpus.values())
        rows[name] = (
            embed(encoder, list(task.queries.values()), role="query", precision="auto"),
            embed(encoder, texts, precision="auto"),
        )
    hits = topk(*rows[model], depth, exclude=own)
    relevant = np.array(
        [[task.judgements[q].get(documents[d], 0) > 0 for d in ids] for q, ids in zip(queries, hits.ids.tolist(), strict=True)]
    )
    asked, told = rows[guide]
    by_guide = np.einsum("qd,qkd->qk", asked, told[hits.ids])
    positives = [np.einsum("qd,qd->q", q, d[own]) for q, d in (rows[model], rows[guide])]
    return Found(hits.scores, by_guide.astype(np.float32), relevant, *(p.astype(np.float32) for p in positives))


def measure(found: Found, name: str, *, guided: bool) -> dict[str, float | str]:
    """The figures of one rule."""
    rule = NegativeRule(**{"count": COUNT, "depth": found.scores.shape[1], **RULES[name]})  # pyright: ignore
    scores, positive = (found.guide, found.guide_positive) if guided else (found.scores, found.positive)
    present = np.ones(scores.shape, dtype=bool)
    passed = judge(scores, positive, present, rule) == PASSED
    places = choose(scores, positive, present, rule).places[:, :COUNT]
    taken = places >= 0
    false = np.take_along_axis(found.relevant, np.maximum(places, 0), axis=1)[taken]
    dropped = ~passed
    return {
        "rule": f"{name} by the guide" if guided else name,
        "precision": float(found.relevant[dropped].mean()) if dropped.any() else float("nan"),
        "recall": float(dropped[found.relevant].mean()) if found.relevant.any() else float("nan"),
        "false": float(false.mean()) if len(false) else float("nan"),
        "kept": float((taken.sum(axis=1) == COUNT).mean()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--model", default="static")
    parser.add_argument("--guide", default="minilm")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    told, holds = {}, True
    for folder in asked.tasks:
        found = search(read_task(folder).task, asked.model, asked.guide, asked.depth)
        lines = [measure(found, name, guided=False) for name in RULES]
        lines += [measure(found, name, guided=True) for name in BY_GUIDE]
        told[folder.name] = lines
        by = {line["rule"]: line for line in lines}
        guided, own = by["below 0.95 by the guide"], by["below 0.95"]
        holds = (
            holds and float(guided["false"]) <= float(by["none"]["false"]) / 2 and float(guided["kept"]) > float(own["kept"])
        )
        if not asked.json:
            share = float(found.relevant.mean())
            print(
                f"{folder.name}: {len(found.scores):,} queries, {share:.3f} of the {asked.depth} nearest are relevant ({asked.model})"
            )
            print(f"  {'rule':<26} {'precision':>9} {'recall':>7} {'false':>7} {'kept':>6}")
            for line in lines:
                print("  {rule:<26} {precision:>9.3f} {recall:>7.3f} {false:>7.3f} {kept:>6.3f}".format(**line))
    if asked.json:
        print(json.dumps(told))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

"""Training with mined negatives beside in-batch negatives alone: same pairs, same steps, several seeds, judged on held-out queries.

    python benchmarks/negatives_training.py FOLDER [--encoder static] [--guide minilm] [--pairs 4000] [--count 3] [--seeds 3] [--set epochs=2] [--json]

FOLDER has `pairs.jsonl` and `task/`. The encoder as it is before training mines `count` negatives for each pair: all that are near (`mined`), those below 0.95 of the
positive by its own scores (`filtered`), those below 0.95 by the guide's (`guided`). Every run is judged by its last weights, so that what is compared is the
negatives and not the choice of a checkpoint. Prints nDCG@10 (mean over seeds), and the paired difference to `in batch` over queries with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nearfar.data.pairs import read_pairs
from nearfar.data.tasks import read_task
from nearfar.encoders import load_encoder
from nearfar.evaluation import evaluate
from nearfar.metrics.significance import paired_difference
from nearfar.mining import NegativeRule, mine
from nearfar.training import parse_settings, train
from nearfar.types import Pair, Task


def variants(pairs: Sequence[Pair], encoder: str, guide: str, count: int, cache: Path) -> dict[str, list[Pair]]:
    """The pairs with each kind of negatives."""
    found = {"in batch": list(pairs)}
    model = load_encoder(encoder)
    for name, below, teacher in (("mined", None, None), ("filtered", 0.95, None), ("guided", None, guide)):
        rule = NegativeRule(count=count, depth=50, below_positive=below)
        mined = mine(pairs, encoder=model, rule=rule, teacher=teacher, cache=cache)
        found[name] = [Pair(p.query, p.positive, p.negatives, p.group, p.score, p.source) for p in mined.pairs]
    return found


def score(pairs: Sequence[Pair], encoder: str, task: Task, settings: Sequence[str], seed: int) -> np.ndarray:
    """nDCG@10 of every query after training on `pairs`."""
    own = ["evaluation.dev=0", "evaluation.judge=0", "evaluation.outside_texts=0", f"seed={seed}", *settings]
    with tempfile.TemporaryDirectory() as out:
        train(pairs, out=Path(out) / "run", encoder=encoder, config=parse_settings(own))
        return evaluate(load_encoder(Path(out) / "run"), task, metrics=["ndcg@10"]).metrics["ndcg@10"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--guide", default="minilm")
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default="in batch,mined,filtered,guided")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    every = read_pairs(asked.folder / "pairs.jsonl").pairs
    pairs = [every[i] for i in np.random.default_rng(0).permutation(len(every))[: asked.pairs].tolist()]
    task = read_task(asked.folder / "task").task
    with tempfile.TemporaryDirectory() as cache:
        kinds = variants(pairs, asked.encoder, asked.guide, asked.count, Path(cache))
    told: dict[str, dict[str, float]] = {}
    base: np.ndarray | None = None
    for name in asked.kinds.split(","):
        scores = np.mean([score(kinds[name], asked.encoder, task, asked.settings, seed) for seed in range(asked.seeds)], axis=0)
        base = scores if base is None else base
        shown = paired_difference(scores, base, seed=0)
        told[name] = {
            "negatives": float(np.mean([len(pair.negatives) for pair in kinds[name]])),
            "ndcg@10": float(scores.mean()),
            "difference": shown.difference,
            "low": shown.low,
            "high": shown.high,
            "p": shown.p,
        }
        if not asked.json:
            line = "{negatives:5.2f} negatives a pair, nDCG@10 {ndcg@10:.4f}, {difference:+.4f} [{low:+.4f}, {high:+.4f}], p {p:.4f}"
            print(f"{name:<9} " + line.format(**told[name]), flush=True)
    if asked.json:
        print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())

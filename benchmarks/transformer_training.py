"""Pairs a second of tuning MiniLM: nearfar beside sentence-transformers' trainer in float32 (its default) and in bfloat16, and what the models are worth.

    python benchmarks/transformer_training.py PAIRS TASK [--batch 64,512] [--pairs 1024] [--seeds 3] [--peers float32,bfloat16] [--json]

PAIRS is a file of pairs (documents of mixed length; the bars were measured on MedQuAD), TASK a BEIR folder held out from it. All start from the stock MiniLM
with 256 tokens a text, the same pairs, batch, epochs, AdamW, learning rate and linear schedule, dropout as the model says (0.1). Everything from texts to the last
step counts: tokenization, sampling, encoder, loss, optimizer; loading libraries and models does not, nor does evaluation, which is off. One round a seed, each
running every system in turn, so that what slows one slows all; ratios are of one round, their median is shown.

Ends with exit 1 where nearfar trains fewer than 4 times the pairs a second of the float32 default or 2.5 times those in bfloat16, or where its nDCG@10 over all
seeds is shown to be lower (95 % interval of the paired difference below zero).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nearfar.data.pairs import read_pairs
from nearfar.data.tasks import read_task
from nearfar.encoders import TransformerEncoder, load_encoder
from nearfar.encoders.load import starter_folder
from nearfar.evaluation import Evaluation, evaluate
from nearfar.metrics.significance import paired_difference
from nearfar.training import parse_settings, train
from nearfar.types import Pair, Task

from peer_trainer import train_peer

LENGTH = 256
RATE = 5e-5
BARS = {"float32": 4.0, "bfloat16": 2.5}
CACHED_ABOVE = 128
"""Pairs a batch beyond which sentence-transformers is given its Cached loss: activations of more, in float32 with dropout, do not fit 24 GB."""


def ours(pairs: list[Pair], batch: int, epochs: int, seed: int, out: Path) -> tuple[float, Path]:
    """Seconds of a whole run, and its model."""
    encoder = load_encoder("minilm", max_length=LENGTH)
    settings = [
        f"batch_size={batch}",
        f"epochs={epochs}",
        f"learning_rate={RATE}",
        f"seed={seed}",
        "evaluation.dev=0",
        "evaluation.judge=0",
        "evaluation.outside_texts=0",
    ]
    began = time.perf_counter()
    train(pairs, out=out, encoder=encoder, config=parse_settings(settings))
    return time.perf_counter() - began, out / "model"


def theirs(pairs: list[Pair], batch: int, epochs: int, seed: int, out: Path, *, bf16: bool) -> tuple[float, Path]:
    """The same by sentence-transformers' trainer and MultipleNegativesRankingLoss (large batches: its Cached form), other arguments at their defaults."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    model = SentenceTransformer(str(starter_folder()), device="cpu")
    model.max_seq_length = LENGTH
    kind = MultipleNegativesRankingLoss if batch <= CACHED_ABOVE else CachedMultipleNegativesRankingLoss
    told = {"num_train_epochs": epochs, "per_device_train_batch_size": batch, "learning_rate": RATE, "seed": seed, "bf16": bf16}
    took = train_peer(model, kind(model, scale=20.0), pairs, out, **told)
    model.save_pretrained(str(out / "final"))
    return took, out / "final"


def score(model: Path, task: Task, name: str) -> Evaluation:
    encoder = load_encoder(model, max_length=LENGTH)
    assert isinstance(encoder, TransformerEncoder)
    with encoder.computing("auto"):
        return evaluate(encoder, task, metrics=["ndcg@10"], name=name)


def smaller(task: Task, queries: int) -> Task:
    """The first queries of a task with judged documents, and as many others again: quick to encode for every model."""
    chosen = list(task.queries)[:queries]
    judged = {d for q in chosen for d in task.judgements.get(q, {})}
    others = [d for d in task.corpus if d not in judged][: len(judged)]
    corpus = {d: task.corpus[d] for d in [*judged, *others]}
    return replace(
        task,
        corpus=corpus,
        queries={q: task.queries[q] for q in chosen},
        judgements={q: task.judgements.get(q, {}) for q in chosen},
    )


def compare_all(pairs: list[Pair], task: Task, batch: int, asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All rounds at one batch size."""
    systems: dict[str, Callable[[int, Path], tuple[float, Path]]] = {
        "nearfar": lambda s, out: ours(pairs, batch, asked.epochs, s, out)
    }
    for name in asked.peers.split(","):
        systems[name] = lambda s, out, name=name: theirs(pairs, batch, asked.epochs, s, out, bf16=name == "bfloat16")
    took: dict[str, list[float]] = {name: [] for name in systems}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in systems}
    for seed in range(asked.seeds):
        for name, run in systems.items():
            seconds, model = run(seed, folder / f"{name}-{batch}-{seed}")
            took[name].append(seconds)
            scores[name].append(np.asarray(score(model, task, name).metrics["ndcg@10"]))
            if not asked.json:
                print(
                    f"batch {batch}, seed {seed}: {name:<9} {len(pairs) * asked.epochs / seconds:6.1f} pairs/s, nDCG@10 {scores[name][-1].mean():.4f}",
                    flush=True,
                )
    mine = np.mean(scores["nearfar"], axis=0)
    found: dict[str, object] = {
        "batch": batch,
        "pairs_per_second": {n: round(len(pairs) * asked.epochs / statistics.median(s), 2) for n, s in took.items()},
    }
    for name in [name for name in systems if name != "nearfar"]:
        ratio = statistics.median(t / o for t, o in zip(took[name], took["nearfar"], strict=True))
        shown = paired_difference(mine, np.mean(scores[name], axis=0), seed=0)
        found[name] = {
            "ratio": round(ratio, 2),
            "difference": round(shown.difference, 4),
            "low": round(shown.low, 4),
            "high": round(shown.high, 4),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs_file", type=Path)
    parser.add_argument("task", type=Path)
    parser.add_argument("--batch", default="64,512")
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=400, help="of the task, for the scores")
    parser.add_argument("--peers", default="float32,bfloat16")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    everything = read_pairs(asked.pairs_file).pairs
    chosen = np.random.default_rng(0).permutation(len(everything))[: asked.pairs]
    # without their sources, of which nearfar would make batches apart: the batch is to be the same
    pairs = [replace(everything[i], source=None) for i in chosen.tolist()]
    task = smaller(read_task(asked.task).task, asked.queries)
    results, holds = [], True
    with tempfile.TemporaryDirectory() as folder:
        for batch in [int(x) for x in asked.batch.split(",")]:
            found = compare_all(pairs, task, batch, asked, Path(folder))
            results.append(found)
            for name in asked.peers.split(","):
                told: dict[str, float] = found[name]  # pyright: ignore[reportAssignmentType]
                fast, good = told["ratio"] >= BARS[name], told["high"] >= 0
                holds = holds and fast and good
                if not asked.json:
                    print(
                        f"batch {batch}: {told['ratio']:.2f} times sentence-transformers in {name} ({'holds' if fast else 'FAILS'}: {BARS[name]}), "
                        f"nDCG@10 {told['difference']:+.4f} [{told['low']:+.4f}, {told['high']:+.4f}] ({'not lower' if good else 'LOWER'})",
                        flush=True,
                    )
    if asked.json:
        print(json.dumps({"threads": torch.get_num_threads(), "pairs": len(pairs), "results": results}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

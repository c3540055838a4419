"""GTE: the improved loss, one softmax over queries and documents both ways, over many sources of which the small come more often.

Li 2023, "Towards General Text Embeddings with Multi-stage Contrastive Learning" (arXiv 2308.03281).
"""

from __future__ import annotations

from dataclasses import replace

from nearfar.recipes.negatives import with_negatives
from nearfar.recipes.recipe import UNCONFIRMED, Bench, Number, Recipe, Stage, need_pairs
from nearfar.types import Pair


def _pretrain(bench: Bench) -> list[Pair]:
    return [replace(p.with_negatives(), score=None) for p in bench.material.pairs]


def _tune(bench: Bench) -> list[Pair]:
    marked = [p for p in bench.material.pairs if p.negatives] or list(bench.material.pairs)
    return with_negatives(bench, [replace(p, score=None) for p in marked], count=1)


GTE = Recipe(
    name="gte",
    idea="the improved loss (all four directions in one softmax), sources drawn by size ** 0.5, then hard negatives",
    paper="Li 2023, arXiv 2308.03281",
    stages=(
        Stage(
            "pretrain",
            "all pairs, a source a batch",
            ("epochs=1", "batch_size=128", "learning_rate=2e-05", "temperature=0.01", "loss.name=gte", "mixture.temperature=2"),
            _pretrain,
        ),
        Stage(
            "tune",
            "pairs that have hard negatives (or all, mined by the model of the first stage)",
            ("epochs=1", "batch_size=64", "learning_rate=2e-05", "temperature=0.01", "loss.name=gte"),
            _tune,
        ),
    ),
    numbers=(
        Number("loss, temperature", "improved contrastive loss, 0.01"),
        Number("share of a source", "size ** 0.5, a source a batch", "the same (mixture.temperature=2)"),
        Number("pretraining: batch", "large; little gained beyond about 10,000", "128", "a laptop; --set batch_size=1024"),
        Number("tuning: batch", "128", "64", "memory"),
        Number(
            "tuning: negatives a query",
            "1 hard, up to 14 by chance",
            "1 hard, and the batch's",
            "each is one more text",
        ),
        Number("steps, learning rates", UNCONFIRMED, "1 epoch each, 2e-5", "usual for a tuned model"),
        Number("pooling", "mean", "the model's own", "a tuned encoder keeps how it was tuned"),
    ),
    check=lambda material, _teacher: need_pairs("gte", material),
)

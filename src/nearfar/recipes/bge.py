"""BGE: a general contrastive stage at a low temperature, then the task, with an instruction before queries and mined negatives.

Xiao 2023, "C-Pack: Packed Resources For General Chinese Embeddings" (arXiv 2309.07597).
"""

from __future__ import annotations

from dataclasses import replace

from nearfar.encoders import Prompts
from nearfar.recipes.negatives import with_negatives
from nearfar.recipes.recipe import Bench, Number, Recipe, Stage, need_pairs
from nearfar.types import Pair

INSTRUCTION = "Represent this sentence for searching relevant passages: "


def _general(bench: Bench) -> list[Pair]:
    return [replace(p.with_negatives(), score=None) for p in bench.material.pairs]


def _task(bench: Bench) -> list[Pair]:
    marked = [p for p in bench.material.pairs if p.negatives] or list(bench.material.pairs)
    return with_negatives(bench, [replace(p, score=None) for p in marked], count=1, draw=True)


BGE = Recipe(
    name="bge",
    idea="a general contrastive stage, then the task with an instruction before queries and mined negatives",
    paper="Xiao 2023, arXiv 2309.07597",
    stages=(
        Stage(
            "general",
            "all pairs, in-batch negatives only",
            ("epochs=1", "batch_size=128", "learning_rate=2e-05", "warmup=0.1", "temperature=0.01"),
            _general,
        ),
        Stage(
            "task",
            "pairs that have hard negatives (or all, mined by the model of the first stage), the instruction before their queries",
            ("epochs=2", "batch_size=64", "learning_rate=1e-05", "warmup=0.1", "temperature=0.02"),
            _task,
            Prompts(INSTRUCTION, ""),
        ),
    ),
    numbers=(
        Number("instruction", f"one a task; their English one for search: '{INSTRUCTION.strip()}'", "that one"),
        Number("general stage: batch", "19,200 (English models: about 32,768)", "128", "a laptop; --set batch_size=1024"),
        Number("general stage: temperature, learning rate", "0.01, 1e-5 (large) or 2e-5 (base)", "0.01, 2e-5"),
        Number("task: temperature, learning rate, epochs", "0.02, 1e-5, 2 (their tuning example)"),
        Number(
            "hard negatives a query",
            "1 in the paper, 7 in their example",
            "1, drawn from the 50 nearest",
            "each is one more text",
        ),
        Number("pooling", "[CLS]", "the model's own", "a tuned encoder keeps how it was tuned"),
        Number(
            "warm-up", "RetroMAE on plain text", "none", "it wants a decoder and much text; start from a pretrained encoder"
        ),
    ),
    check=lambda material, _teacher: need_pairs("bge", material),
)

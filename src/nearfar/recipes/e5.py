"""E5: many weak pairs with prefixes at a low temperature, then hard negatives and a teacher's distribution.

Wang 2022, "Text Embeddings by Weakly-Supervised Contrastive Pre-training" (arXiv 2212.03533).
"""

from __future__ import annotations

from dataclasses import replace

from nearfar.encoders import Prompts
from nearfar.recipes.negatives import with_negatives, with_teacher
from nearfar.recipes.recipe import UNCONFIRMED, Bench, Material, Number, Recipe, Stage, need_pairs, need_teacher
from nearfar.types import Encoder, Pair


def _weak(bench: Bench) -> list[Pair]:
    return [replace(p.with_negatives(), score=None) for p in bench.material.pairs]


def _labelled(bench: Bench) -> list[Pair]:
    marked = [p for p in bench.material.pairs if p.negatives] or list(bench.material.pairs)
    return with_teacher(bench, with_negatives(bench, [replace(p, score=None) for p in marked], count=3))


def _check(material: Material, teacher: Encoder | None) -> None:
    need_pairs("e5", material)
    if not all(len(p.teacher_scores) == len(p.negatives) + 1 > 1 for p in material.pairs):
        need_teacher("e5", teacher, "whose scores of each query's candidates are learned in its second stage")


E5 = Recipe(
    name="e5",
    idea="weak pairs with query: and passage: before them, then hard negatives and a teacher's distribution",
    paper="Wang 2022, arXiv 2212.03533",
    stages=(
        Stage(
            "weak",
            "all pairs, in-batch negatives only",
            ("epochs=1", "batch_size=128", "learning_rate=2e-05", "warmup=0.1", "temperature=0.01"),
            _weak,
            Prompts("query: ", "passage: "),
        ),
        Stage(
            "distil",
            "pairs that have hard negatives (or all, mined by the model of the first stage): KL to the teacher and 0.2 of InfoNCE",
            (
                "epochs=2",
                "batch_size=32",
                "learning_rate=2e-05",
                "warmup=0.1",
                "temperature=0.01",
                "loss.name=score_kl",
                "loss.also=info_nce:0.2",
            ),
            _labelled,
        ),
    ),
    numbers=(
        Number("prefixes", "'query: ', 'passage: '"),
        Number("temperature", "0.01"),
        Number("first stage: batch", "32,768", "128", "a laptop; a larger batch is better: --set batch_size=1024"),
        Number("second stage: loss", "KL to the teacher + alpha x InfoNCE", "the same, alpha 0.2", f"alpha: {UNCONFIRMED}"),
        Number("second stage: hard negatives a query", UNCONFIRMED, "3", "each is one more text to encode"),
        Number("steps, learning rates, second batch", UNCONFIRMED, "1 and 2 epochs, 2e-5, 32", "usual for a tuned model"),
        Number(
            "teacher",
            "a cross-encoder",
            "an encoder, or teacher_scores in the pairs",
            "cross-encoders' scores can be given in the file",
        ),
    ),
    check=_check,
    wants_teacher=True,
)

"""GPL: a domain without labels. Queries made from its texts, negatives found by search, margins from a teacher.

Wang 2022, "GPL: Generative Pseudo Labeling for Unsupervised Domain Adaptation of Dense Retrieval" (arXiv 2112.07577); the loss is
Hofstätter 2020's MarginMSE (arXiv 2010.02666).
"""

from __future__ import annotations

from dataclasses import replace

from nearfar.errors import Missing
from nearfar.recipes.negatives import pairs_of_texts, with_negatives, with_teacher
from nearfar.recipes.recipe import Bench, Material, Number, Recipe, Stage, need_teacher
from nearfar.types import Encoder, Pair


def _margins(bench: Bench) -> list[Pair]:
    own = [replace(p, score=None) for p in bench.material.pairs]
    # the teacher says what a false negative is worth, so none is passed over for being near
    texts = bench.material.texts
    return with_teacher(bench, with_negatives(bench, own, count=4, below_positive=None, draw=True, texts=texts))


def _prepare(material: Material) -> Material:
    """Pairs of texts where no pairs were given; then the texts are those pairs' rest, and serve no further."""
    return material if material.pairs else Material(pairs_of_texts(material.texts))


def _check(material: Material, teacher: Encoder | None) -> None:
    if len(material.pairs) < 2 and len(pairs_of_texts(material.texts)) < 2:
        raise Missing(
            "--recipe gpl: it needs texts of two sentences or more (a corpus .jsonl, or .txt with a text a line), whose first makes the query, "
            "or pairs with queries of your own."
        )
    need_teacher("gpl", teacher, "whose margins between positive and negative are learned")


GPL = Recipe(
    name="gpl",
    idea="a domain without labels: queries from titles and first sentences, negatives by search, a teacher's margins",
    paper="Wang 2022, arXiv 2112.07577",
    stages=(
        Stage(
            "margins",
            "each query with its text and four texts drawn from the 50 nearest, MarginMSE",
            ("epochs=1", "batch_size=32", "learning_rate=2e-05", "warmup=0.1", "loss.name=margin_mse"),
            _margins,
        ),
    ),
    numbers=(
        Number(
            "queries",
            "3 a text, more where texts are few, written by T5",
            "1, its title or first sentence; or yours",
            "a generator is a model of its own",
        ),
        Number(
            "negatives",
            "50 of each of two retrievers, one drawn a step",
            "4 drawn from the model's own 50",
            "seen together, one search",
        ),
        Number("teacher", "a cross-encoder", "an encoder, or teacher_scores in the pairs"),
        Number(
            "batch, steps, warm-up", "32, 140,000, 1,000 steps", "32, one epoch, 10 %", "thousands of texts; --set epochs=10"
        ),
        Number("length", "350 tokens", "the model's own", "a tuned encoder keeps how it was tuned"),
    ),
    check=_check,
    prepare=_prepare,
    wants_teacher=True,
)

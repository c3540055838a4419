"""SimCSE: a text is its own positive, seen under two dropout masks; then pairs with hard negatives, where there are pairs.

Gao, Yao and Chen 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings" (arXiv 2104.08821).
"""

from __future__ import annotations

from nearfar.errors import Missing
from nearfar.recipes.recipe import Bench, Material, Number, Recipe, Stage, refuse_static
from nearfar.types import Encoder, Pair


def _views(bench: Bench) -> list[Pair]:
    refuse_static("simcse", bench.encoder, "its two views are two dropout masks")
    texts = [*bench.material.texts, *(text for p in bench.material.pairs for text in (p.query, p.positive, *p.negatives))]
    return [Pair(text, text) for text in dict.fromkeys(texts) if text.strip()]


def _check(material: Material, _teacher: Encoder | None) -> None:
    if len(material.texts) + len(material.pairs) < 2:
        raise Missing(
            "--recipe simcse: it learns from texts. Give a file with one text a line (.txt), a corpus .jsonl, or pairs."
        )


SIMCSE = Recipe(
    name="simcse",
    idea="each text its own positive under two dropout masks; with pairs, a second stage on them and their hard negatives",
    paper="Gao, Yao and Chen 2021, arXiv 2104.08821",
    stages=(
        Stage(
            "unsupervised",
            "every text against itself",
            ("epochs=1", "batch_size=64", "learning_rate=3e-05", "warmup=0", "temperature=0.05"),
            _views,
        ),
        Stage(
            "supervised",
            "the pairs as they are, hard negatives too; left out where only texts were given",
            ("epochs=3", "batch_size=128", "learning_rate=5e-05", "warmup=0", "temperature=0.05"),
            lambda bench: list(bench.material.pairs),
        ),
    ),
    numbers=(
        Number("temperature", "0.05"),
        Number("unsupervised: batch, learning rate, epochs", "64, 3e-5, 1 (BERT base)"),
        Number(
            "supervised: batch, learning rate, epochs", "512, 5e-5, 3 (base)", "128, 5e-5, 3", "a laptop; --set batch_size=512"
        ),
        Number("texts", "1,000,000 sentences of Wikipedia; NLI with contradictions", "yours"),
        Number("length", "32 tokens", "the model's own", "documents are longer than sentences; --set max_length=32"),
        Number(
            "head",
            "[CLS] and an MLP; unsupervised, the MLP while training only",
            "none, the model's own pooling",
            "a tuned encoder keeps how it was tuned",
        ),
        Number("stages", "two models, one each", "one model, the second from the first"),
    ),
    check=_check,
)

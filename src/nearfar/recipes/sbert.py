"""Sentence-BERT: a siamese encoder, each query's positive among the positives of its batch.

Reimers and Gurevych 2019 (arXiv 1908.10084); the loss is the multiple negatives ranking of Henderson 2017 (arXiv 1705.00652),
which sentence-transformers has taken for pairs since.
"""

from nearfar.recipes.recipe import Number, Recipe, Stage, need_pairs

SBERT = Recipe(
    name="sbert",
    idea="one stage of in-batch negatives: the plain tuning that everything else is measured by",
    paper="Reimers and Gurevych 2019, arXiv 1908.10084",
    stages=(
        Stage(
            "tune",
            "every pair as it is, hard negatives too where there are any",
            ("epochs=1", "batch_size=64", "learning_rate=2e-05", "warmup=0.1", "temperature=0.05"),
            lambda bench: list(bench.material.pairs),
        ),
    ),
    numbers=(
        Number("loss", "softmax over (u, v, |u - v|) of 3 NLI classes", "InfoNCE, temperature 0.05", "pairs have no classes"),
        Number("batch", "16", "64", "in-batch negatives want more rows than a classifier does"),
        Number("learning rate, warm-up, epochs", "2e-5, 10 %, 1"),
        Number("pairs", "570,000 of SNLI and 430,000 of MultiNLI", "yours"),
        Number("pooling", "mean", "the model's own", "a tuned encoder keeps how it was tuned"),
    ),
    check=lambda material, _teacher: need_pairs("sbert", material),
)

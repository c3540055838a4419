"""A static retriever: a pretrained token table tuned on pairs, its first dimensions good alone.

Kusupati 2022, "Matryoshka Representation Learning" (arXiv 2205.13147); the numbers are those of sentence-transformers'
static-retrieval-mrl-en-v1 (Aarsen 2025).
"""

from nearfar.recipes.recipe import Number, Recipe, Stage, need_pairs

STATIC = Recipe(
    name="static",
    idea="a token table made from a transformer, tuned in seconds, that can be cut to 128, 64 or 32 dimensions",
    paper="Kusupati 2022, arXiv 2205.13147; Aarsen 2025, 'Train 400x faster static embedding models'",
    encoder="static",
    stages=(
        Stage(
            "tune",
            "every pair, in-batch negatives, at every dimension at once",
            ("epochs=4", "learning_rate=0.1", "warmup=0.1", "temperature=0.05", "loss.dims=256,128,64,32"),
            lambda bench: list(bench.material.pairs),
        ),
    ),
    numbers=(
        Number("batch", "2,048", "an eighth of the pairs, 2,048 at most", "few pairs want more steps"),
        Number("learning rate, epochs, warm-up", "0.2, 1, 10 %", "0.1, 4, 10 %", "thousands of pairs, not millions"),
        Number("dimensions", "1024, 768, 512, 256, 128, 64, 32", "256, 128, 64, 32", "the start is a model of 384, cut to 256"),
        Number("start", "random", "a table distilled from MiniLM", "what it knows already need not be learned"),
    ),
    check=lambda material, _teacher: need_pairs("static", material),
)

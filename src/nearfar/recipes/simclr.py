"""SimCLR: two views of every picture, each the other's positive among the whole batch, under a head that is thrown away.

Chen 2020, "A Simple Framework for Contrastive Learning of Visual Representations" (arXiv 2002.05709); the deeper head is that of "Big Self-Supervised Models
are Strong Semi-Supervised Learners" (arXiv 2006.10029).
"""

from __future__ import annotations

from nearfar.encoders import ImageEncoder
from nearfar.errors import Missing
from nearfar.recipes.recipe import Bench, Material, Number, Recipe, Stage
from nearfar.types import Encoder, Pair, Picture


def _views(bench: Bench) -> list[Pair]:
    if not isinstance(bench.encoder, ImageEncoder):
        raise Missing(
            "--recipe simclr: it trains an image tower alone, without its text tower. Give one: --encoder small-image, or image:FOLDER."
        )
    return list(bench.material.pairs)


def _prepare(material: Material) -> Material:
    """Each picture of the pairs with itself; captions and other texts serve no further."""
    items = (item for pair in material.pairs for item in (pair.query, pair.positive, *pair.negatives))
    pictures = dict.fromkeys(item for item in items if isinstance(item, Picture))
    return Material([Pair(picture, picture) for picture in pictures])


def _check(material: Material, _teacher: Encoder | None) -> None:
    if len(_prepare(material).pairs) < 2:
        raise Missing("--recipe simclr: it learns from pictures. Give a folder of them, or pairs with a column of images.")


SIMCLR = Recipe(
    name="simclr",
    idea="two views of every picture, each the other's positive; the projection head is there in training only",
    paper="Chen 2020, arXiv 2002.05709",
    encoder="small-image",
    wants_pictures=True,
    stages=(
        Stage(
            "views",
            "every picture against itself, all other views of the batch its negatives",
            (
                "epochs=12",
                "batch_size=256",
                "learning_rate=0.003",
                "warmup=0.1",
                "temperature=0.2",
                "loss.name=nt_xent",
                "augment.kind=cifar",
                "model.projector=simclr",
                "optimizer.schedule=cosine",
                "optimizer.weight_decay=0.0001",
            ),
            _views,
        ),
    ),
    numbers=(
        Number("batch", "4,096 (CIFAR-10: 256 to 4,096)", "256", "a laptop; --set batch_size=4096 is the same step, exactly"),
        Number(
            "optimizer, learning rate",
            "LARS, 0.3 x batch / 256",
            "AdamW, 0.003",
            "a short run; --set optimizer.name=lars --set optimizer.clip=0",
        ),
        Number(
            "weight decay", "1e-6, not of norms and offsets", "1e-4, likewise", "AdamW's decay is another thing than LARS's"
        ),
        Number("epochs, warm-up", "100 to 1,000, 10 of them warm-up; cosine", "12, a tenth; cosine", "minutes on two cores"),
        Number("temperature", "0.1 (CIFAR-10: 0.5)", "0.2", "a small batch; not tuned"),
        Number("views", "crop 8 to 100 %, flip, colours, grey, blur; CIFAR-10: half the colours, no blur", "those of CIFAR-10"),
        Number("head", "2 layers to 128 (v2: 3 layers)", "2 layers to 128", "--set model.projector=simclr2 for v2's"),
        Number(
            "encoder", "ResNet-50 with batch norm over all devices", "a small network with group norm", "norms of batches leak"
        ),
        Number("judged by", "a linear layer", "neighbours and a linear layer (nearfar.evaluation)"),
    ),
    check=_check,
    prepare=_prepare,
)

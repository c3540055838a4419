"""Pictures and their captions: CLIP, SigLIP, ALIGN and LiT, one stage each.

Radford 2021 (arXiv 2103.00020), Zhai 2023 (arXiv 2303.15343), Jia 2021 (arXiv 2102.05918), Zhai 2022 (arXiv 2111.07991).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nearfar.encoders import ImageTextEncoder
from nearfar.errors import Missing
from nearfar.recipes.recipe import UNCONFIRMED, Bench, Material, Number, Recipe, Stage
from nearfar.types import Encoder, Pair, Picture

TOWERS = "clip:small-image:32+minilm"
_COMMON = ("epochs=8", "warmup=0.1", "augment.kind=light", "learn_temperature=true", "optimizer.schedule=cosine")
_SIZE = Number(
    "towers",
    "ViT or ResNet for pictures and a transformer for texts, both from nothing",
    "a small network from nothing, MiniLM as it is known",
    "minutes on two cores; --encoder clip:IMAGE+TEXT, or a folder of a CLIP",
)


def _pairs(name: str) -> Callable[[Bench], list[Pair]]:
    def make(bench: Bench) -> list[Pair]:
        if not isinstance(bench.encoder, ImageTextEncoder):
            raise Missing(
                f"--recipe {name}: it trains an image and a text tower. Give both: --encoder clip:small-image+minilm, or a folder of a CLIP."
            )
        return [replace(pair, score=None) for pair in bench.material.pairs]

    return make


def _check(name: str) -> Callable[[Material, Encoder | None], None]:
    def check(material: Material, _teacher: Encoder | None) -> None:
        if not any(isinstance(pair.query, Picture) != isinstance(pair.positive, Picture) for pair in material.pairs):
            raise Missing(
                f"--recipe {name}: it learns from pictures and their captions. Give pairs with a column of images and one of texts."
            )

    return check


CLIP = Recipe(
    name="clip",
    idea="a picture and its caption against all others of the batch, both ways, with a learned temperature",
    paper="Radford 2021, arXiv 2103.00020",
    encoder=TOWERS,
    wants_pictures=True,
    stages=(
        Stage(
            "pairs",
            "every caption with its picture, the batch's others as negatives in both directions",
            (
                *_COMMON,
                "batch_size=256",
                "learning_rate=0.0005",
                "temperature=0.07",
                "loss.name=clip",
                "optimizer.weight_decay=0.2",
                "optimizer.beta2=0.98",
                "optimizer.epsilon=1e-06",
            ),
            _pairs("clip"),
        ),
    ),
    numbers=(
        Number("temperature", "learned from 0.07, its scale held at 100"),
        Number("batch", "32,768", "256", "thousands of pairs; --set batch_size=8192 is the same step, exactly"),
        Number("optimizer", "Adam with decoupled decay 0.2 (not of gains and offsets), beta2 0.98, epsilon 1e-6 (ViT)"),
        Number("learning rate", "5e-4 (ViT-B/32)"),
        Number("epochs, warm-up", "32, 2,000 steps; cosine", "8, a tenth; cosine", "minutes on two cores"),
        Number(
            "views", "a random square crop", "a crop of 90 to 100 % (open_clip's)", "smaller ones lose what the caption says"
        ),
        _SIZE,
    ),
    check=_check("clip"),
)

SIGLIP = Recipe(
    name="siglip",
    idea="each picture and caption a yes or no of its own: a sigmoid in the softmax's place",
    paper="Zhai 2023, arXiv 2303.15343",
    encoder=TOWERS,
    wants_pictures=True,
    stages=(
        Stage(
            "pairs",
            "every picture with every caption of the batch: its own yes, all others no",
            (
                *_COMMON,
                "batch_size=256",
                "learning_rate=0.001",
                "temperature=0.1",
                "loss.name=siglip",
                "loss.bias=-10",
                "optimizer.weight_decay=0.0001",
                "optimizer.beta2=0.95",
            ),
            _pairs("siglip"),
        ),
    ),
    numbers=(
        Number("temperature, bias", "t' = log 10 and b = -10 to begin with, both learned", "the same, set explicitly"),
        Number("batch", "32,768 (as good as larger ones)", "256", "thousands of pairs"),
        Number("beta2", "0.95 for large batches"),
        Number("learning rate, weight decay", f"1e-3, 1e-4 ({UNCONFIRMED})", "1e-3, 1e-4"),
        Number("loss", "sum over pairs divided by rows"),
        _SIZE,
    ),
    check=_check("siglip"),
)

ALIGN = Recipe(
    name="align",
    idea="noisy captions: label smoothing in both directions, large batches; clean first (nearfar audit --fix)",
    paper="Jia 2021, arXiv 2102.05918",
    encoder=TOWERS,
    wants_pictures=True,
    stages=(
        Stage(
            "pairs",
            "every caption with its picture, a tenth of the target spread over the batch",
            (
                *_COMMON,
                "batch_size=512",
                "learning_rate=0.001",
                "temperature=0.07",
                "loss.name=align",
                "loss.smoothing=0.1",
                "optimizer.weight_decay=1e-05",
            ),
            _pairs("align"),
        ),
    ),
    numbers=(
        Number("label smoothing", "0.1 in both directions"),
        Number("temperature", "learned from 1", "learned from 0.07", "a short run does not get there from 1"),
        Number("batch", "16,384", "512", "thousands of pairs; --set batch_size=8192"),
        Number("optimizer, weight decay", "LAMB, 1e-5", "AdamW, 1e-5", "LAMB is for batches of tens of thousands"),
        Number("learning rate, warm-up", "1e-3, 10,000 of 1,200,000 steps; linear", "1e-3, a tenth; cosine"),
        Number(
            "noise", "1,800,000,000 raw pairs, rare and frequent texts left out", "yours", "audit says how many are mismatched"
        ),
        _SIZE,
    ),
    check=_check("align"),
)

LIT = Recipe(
    name="lit",
    idea="the image tower is locked: the text tower learns to read it, and no picture is encoded twice",
    paper="Zhai 2022, arXiv 2111.07991",
    encoder=TOWERS,
    wants_pictures=True,
    settings=("model.freeze=image.model.*",),
    stages=(
        Stage(
            "pairs",
            "every caption with its picture, whose rows stay as they are",
            (
                "epochs=8",
                "warmup=0.03",
                "learn_temperature=true",
                "optimizer.schedule=cosine",
                "batch_size=256",
                "learning_rate=0.001",
                "temperature=0.1",
                "loss.name=clip",
                "optimizer.weight_decay=0.01",
            ),
            _pairs("lit"),
        ),
    ),
    numbers=(
        Number("temperature", "learned, its scale from 10"),
        Number("batch", "16,384 (their example on COCO: 512 to 4,096)", "256", "thousands of pairs"),
        Number("learning rate, weight decay", "1e-3, 0.01 (their example on COCO)"),
        Number("warm-up", "3 % of the steps, then cosine"),
        Number(
            "image tower",
            "pretrained and locked, no head of its own",
            "locked as given (a run of simclr, a folder); its projection trains",
            "it starts from nothing",
        ),
        Number("views", "crops and random changes", "none", "rows of locked towers are made once"),
        Number("optimizer", "Adam or Adafactor", "AdamW"),
    ),
    check=_check("lit"),
)

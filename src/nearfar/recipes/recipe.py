"""What a recipe is: a paper's stages as settings over the user's pairs, its numbers, and what was scaled down for a laptop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nearfar.encoders import Prompts, StaticEncoder, TransformerEncoder
from nearfar.errors import Missing
from nearfar.types import Encoder, Pair, Progress, silent

UNCONFIRMED = "not confirmed at its source"
"""In the place of a paper's number that was not found there: said, and not guessed."""


@dataclass(frozen=True)
class Material:
    """What the user gave: pairs to train on (those held out are gone), and texts that belong to no pair."""

    pairs: Sequence[Pair]
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Bench:
    """What a stage makes its pairs from: the material, the model as it begins the stage, a teacher if one was given."""

    material: Material
    encoder: Encoder
    teacher: Encoder | None = None
    seed: int = 0
    progress: Progress = silent


class Number(NamedTuple):
    """One number of the paper, what stands for it here, and why."""

    what: str
    paper: str
    here: str = "the same"
    why: str = ""


@dataclass(frozen=True)
class Stage:
    """One run of a recipe: settings as `--set` takes them, and how its pairs are made from what was given."""

    name: str
    idea: str
    settings: tuple[str, ...]
    pairs: Callable[[Bench], list[Pair]]
    prompts: Prompts | None = None
    """What the model puts before queries and documents from this stage on; None: as it was."""


@dataclass(frozen=True)
class Recipe:
    """Stages one after the other, each starting from the model of the one before."""

    name: str
    idea: str
    paper: str
    stages: tuple[Stage, ...]
    encoder: str = "minilm"
    """Where to start unless told otherwise."""
    numbers: tuple[Number, ...] = ()
    settings: tuple[str, ...] = ()
    """Of all stages; a stage's own come after them."""
    check: Callable[[Material, Encoder | None], None] = field(default=lambda _material, _teacher: None)
    """Raises where the recipe lacks something, before anything is done."""
    prepare: Callable[[Material], Material] = field(default=lambda material: material)
    """Before anything is held out: what pairs the recipe makes of texts."""
    wants_teacher: bool = False
    wants_pictures: bool = False


def need_pairs(recipe: str, material: Material) -> None:
    """Raise `Missing` where there are only texts."""
    if not material.pairs:
        raise Missing(
            f"--recipe {recipe}: it learns from pairs, and there are only texts. Give a file with queries and positives."
        )


def need_teacher(recipe: str, teacher: Encoder | None, asked: str) -> None:
    """Raise `Missing` where no teacher was given."""
    if teacher is None:
        raise Missing(
            f"--recipe {recipe}: it needs a teacher, {asked}. Give a stronger model than the one trained: --teacher MODEL (minilm, a folder, or a "
            "hub name)."
        )


def refuse_static(recipe: str, encoder: Encoder, why: str) -> None:
    """Raise `Missing` where the recipe wants a transformer."""
    if isinstance(encoder, StaticEncoder):
        raise Missing(f"--recipe {recipe}: {why}, and a token table has none. Give a transformer: --encoder minilm.")
    assert isinstance(encoder, TransformerEncoder)

"""The encoder a run begins with: opened by name or copied, with what the settings put on it, and what of it moves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nearfar.encoders import AnyEncoder, LoraOptions, StaticEncoder, adapt, grow, image_of, load_encoder
from nearfar.encoders.small_net import SmallNet
from nearfar.errors import BadInput, Damaged
from nearfar.training.config import Config
from nearfar.types import Pair, Picture, Progress

STATIC_LENGTH = 256
"""Tokens a text is cut to by a table whose maker said nothing."""


def open_start(folder: Path, encoder: str | Path | AnyEncoder, config: Config, started: bool, progress: Progress) -> AnyEncoder:
    """The encoder as it is before the first step: on resume the copy in the run, so that a changed cache changes nothing."""
    if started:
        if not folder.is_dir():
            raise Damaged(f"{folder}: the model the run began with is gone. Restore it, or train into another folder.")
        found = load_encoder(folder)
        return _adapted(found.to(encoder.device) if isinstance(encoder, AnyEncoder) else found, config)
    if isinstance(encoder, AnyEncoder):
        model = copy.deepcopy(encoder)  # the caller's stays as it is
    else:
        model = load_encoder(encoder, dim=config.dim, max_length=config.max_length, seed=config.seed, progress=progress)
        if isinstance(model, StaticEncoder) and model.max_length is None:
            model = StaticEncoder(
                model.weight, model.tokenizer, max_length=STATIC_LENGTH, prompts=model.prompts, normalize=model.normalize
            )
    wanted = config.model
    grown = grow(
        model,
        head=wanted.head,
        head_dim=wanted.head_dim,
        towers=wanted.towers,
        truncate_dim=wanted.truncate_dim,
        projector=wanted.projector,
        projector_dim=wanted.projector_dim,
        seed=config.seed,
    )
    return _adapted(grown, config)


def _adapted(model: AnyEncoder, config: Config) -> AnyEncoder:
    """The encoder with dropout, adapters and frozen parts as the settings say: what its folder does not hold."""
    wanted, lora = config.model, config.lora
    return adapt(
        model,
        dropout=wanted.dropout,
        lora=LoraOptions(lora.rank, lora.alpha, lora.dropout, _listed(lora.targets)) if lora.rank else None,
        freeze=_listed(wanted.freeze),
        freeze_layers=wanted.freeze_layers,
        freeze_embeddings=wanted.freeze_embeddings,
        augment=config.augment.kind,
        strength=config.augment.strength,
        seed=config.seed,
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def is_small(model: AnyEncoder) -> bool:
    """Whether the image tower of an encoder is the small network, which learns from nothing."""
    image = image_of(model)
    return image is not None and isinstance(image.model, SmallNet)


def pictures_alone(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs for an encoder that reads no texts: what stands for a text is the pair's own picture, so that a caption or a label gives two views of it.

    Raises `BadInput` for a pair without a picture.
    """
    return [_picture_alone(pair) for pair in pairs]


def _picture_alone(pair: Pair) -> Pair:
    own = [item for item in (pair.query, pair.positive) if isinstance(item, Picture)]
    if len(own) == 2:
        return pair
    if not own:
        raise BadInput(
            f"pairs: {pair.query[:60]!r} and {pair.positive[:60]!r} are texts, and this encoder sees pictures alone. Give a column of images, or an "
            "encoder with a text tower (clip:IMAGE+TEXT)."
        )
    seen = tuple(item for item in pair.negatives if isinstance(item, Picture))
    return replace(pair, query=own[0], positive=own[0], negatives=seen, mined=(), teacher_scores=())

"""From an encoder as it was found to the one that is trained: heads and towers put on (`grow`), then what moves and what does not (`adapt`).

What `grow` adds lies in the saved folder. What `adapt` sets does not: a run that goes on opens its folder and adapts it again.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import nn

from nearfar.encoders.clip_text import ClipText
from nearfar.encoders.dense import Dense, HeadKind, ProjectorKind, make_head, make_projector
from nearfar.encoders.image_text import ImageTextEncoder, without_projector
from nearfar.encoders.lora import LoraOptions, put_adapters
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.towers import Tower, TwoTowerEncoder, is_static
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.encoders.views import AugmentKind, make_view
from nearfar.encoders.vision import ImageEncoder
from nearfar.errors import BadConfig

Towers = Literal["shared", "separate"]
"""Whether queries and documents go through one encoder or through two that start equal."""

AnyEncoder = StaticEncoder | TransformerEncoder | TwoTowerEncoder | ImageEncoder | ImageTextEncoder
_E = TypeVar("_E", bound=AnyEncoder)

_RATE = re.compile(r"drop")
_NOT_OURS = re.compile(r"layerdrop|classif|summary|path")
"""Rates that drop whole layers, or belong to heads that an encoder has not."""


def grow(
    encoder: AnyEncoder,
    *,
    head: HeadKind = "none",
    head_dim: int | None = None,
    towers: Towers = "shared",
    truncate_dim: int | None = None,
    projector: ProjectorKind = "none",
    projector_dim: int = 128,
    seed: int = 0,
) -> AnyEncoder:
    """The encoder with a new head of `head_dim` dimensions (default: as wide as the rows) after those it has, split in two towers, cut.

    The encoder given is not changed; weights that need no copy are shared with it. An encoder of two towers stays one.
    Raises `BadConfig` for a head on a static encoder, a width without a head, or more dimensions kept than there are.
    """
    if head == "none" and head_dim is not None:
        raise BadConfig(f"model.head_dim={head_dim}: there is no head. Set model.head=linear or model.head=mlp.")
    if isinstance(encoder, (ImageEncoder, ImageTextEncoder)):
        _refuse_images({"model.towers": towers == "separate", "model.truncate_dim": truncate_dim is not None})
        if isinstance(encoder, ImageTextEncoder):
            _refuse_images({"model.head": head != "none", "model.projector": projector != "none"})
            return encoder
        return _grown_image(encoder, (head, head_dim), (projector, projector_dim), seed)
    if projector != "none":
        raise BadConfig(f"model.projector={projector}: it is of encoders of pictures alone. Set model.head, or leave it out.")
    if isinstance(encoder, TwoTowerEncoder):
        return TwoTowerEncoder(
            _with_parts(encoder.query, head, head_dim, truncate_dim, seed),
            _with_parts(encoder.document, head, head_dim, truncate_dim, seed),
        )
    grown = _with_parts(encoder, head, head_dim, truncate_dim, seed)
    return TwoTowerEncoder(grown, copy.deepcopy(grown)) if towers == "separate" else grown


def adapt(
    encoder: _E,
    *,
    dropout: float | None = None,
    lora: LoraOptions | None = None,
    freeze: Sequence[str] = (),
    freeze_layers: int = 0,
    freeze_embeddings: bool = False,
    augment: AugmentKind = "none",
    strength: float = 1.0,
    seed: int = 0,
) -> _E:
    """Set, in place, how an encoder is trained, and return it: dropout rates, adapters, and what stays as it is.

    `augment` is the view of each picture that an image tower sees (`nearfar.encoders.views`). `dropout` replaces every rate of the model, hidden and attention (None: the model's own; 0: none). With `lora` only adapters and heads
    train. `freeze` are fnmatch patterns of parameter names ("*.word_embeddings.*", "query.*"), `freeze_layers` counts from the first.
    Raises `BadConfig` where a static encoder has no such part, a pattern matches nothing (naming the nearest), or nothing is left to train.
    """
    asked = {
        "model.dropout": dropout is not None,
        "lora.rank": lora is not None,
        "model.freeze_layers": freeze_layers > 0,
        "model.freeze_embeddings": freeze_embeddings,
    }
    image = image_of(encoder)
    if image is not None:
        image.augment = make_view(augment, image.size, strength)
    elif augment != "none":
        raise BadConfig(f"augment.kind={augment}: this encoder sees no pictures. Leave it out.")
    if isinstance(encoder, ImageEncoder) or (isinstance(encoder, ImageTextEncoder) and isinstance(encoder.text, ClipText)):
        _refuse_images(asked)
    for number, tower in enumerate(_towers(encoder)):
        if isinstance(tower, StaticEncoder):
            _refuse_static([name for name, is_asked in asked.items() if is_asked])
            continue
        if dropout is not None:
            set_dropout(tower, dropout)
        if lora is not None:
            put_adapters(tower.model, lora, seed=seed + number)
        _freeze_front(tower, freeze_layers, freeze_embeddings)
    freeze_names(encoder, freeze)
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise BadConfig(
            "model.freeze: every parameter is frozen, so nothing could be trained. Freeze less, or set model.head=linear."
        )
    return encoder


def set_dropout(encoder: TransformerEncoder, rate: float) -> None:
    """Give every dropout of the model, hidden and attention, this rate. Weights stay as they are.

    The model is built anew from its changed configuration, because some leave a layer out where its rate is zero.
    Raises `BadConfig` where the configuration names no rate, or the rate is no share below 1.
    """
    if not 0 <= rate < 1:
        raise BadConfig(f"model.dropout={rate}: expected a share from 0 to below 1.")
    model = encoder.model
    config = copy.deepcopy(model.config)
    names = [
        name
        for name, value in vars(config).items()
        if _RATE.search(name) and not _NOT_OURS.search(name) and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    if not names:
        raise BadConfig(
            f"model.dropout={rate}: a {config.model_type} names no dropout in its configuration. Leave the setting out."
        )
    if all(getattr(config, name) == rate for name in names):
        return
    for name in names:
        setattr(config, name, float(rate))
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights, which are replaced at once
        made = type(model)._from_config(config, dtype=model.dtype)
    if getattr(model, "pooler", ...) is None:  # a model may be made without one, which its configuration does not say
        setattr(made, "pooler", None)  # noqa: B010 - the stub knows no module that may be None
    made.load_state_dict(model.state_dict())
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(trains[name])
    made.to(model.device)  # pyright: ignore[reportArgumentType] - the stub takes the device for the model
    encoder.model = made.train(model.training)


def freeze_names(encoder: AnyEncoder, patterns: Sequence[str]) -> list[str]:
    """Freeze the parameters whose name matches one of these fnmatch patterns; returns their names.

    A name may be given without its `model.` ("encoder.layer.0.*"). Raises `BadConfig` for a pattern that matches none, naming the nearest.
    """
    parameters = dict(encoder.named_parameters())
    short = {name: re.sub(r"(^|\.)model\.", r"\1", name, count=1) for name in parameters}
    frozen: list[str] = []
    for pattern in patterns:
        found = [n for n in parameters if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(short[n], pattern)]
        if not found:
            near = difflib.get_close_matches(pattern.replace("*", ""), short.values(), n=3, cutoff=0.3)
            hint = f" The nearest are {', '.join(near)}." if near else f" There are {', '.join(list(short.values())[:5])}, ..."
            raise BadConfig(
                f"model.freeze={pattern}: no parameter has such a name.{hint} Patterns are of the kind encoder.layer.0.*"
            )
        frozen += [name for name in found if name not in frozen]
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def kind_of(encoder: AnyEncoder) -> str:
    """What a record calls an encoder: static, transformer, images, images and text, or two encoders."""
    kinds = {
        StaticEncoder: "static",
        TransformerEncoder: "transformer",
        ImageEncoder: "images",
        ImageTextEncoder: "images and text",
    }
    return kinds.get(type(encoder)) or ("static" if is_static(encoder) else "transformer")


def image_of(encoder: object) -> ImageEncoder | None:
    """The image tower of an encoder, where it has one."""
    if isinstance(encoder, ImageTextEncoder):
        return encoder.image
    return encoder if isinstance(encoder, ImageEncoder) else None


def _grown_image(
    encoder: ImageEncoder, head: tuple[HeadKind, int | None], projector: tuple[ProjectorKind, int], seed: int
) -> ImageEncoder:
    """An image encoder with a new head after its own, and a new projector in the place of the one it has (where one is asked for)."""
    heads = [dense for dense in encoder.heads if isinstance(dense, Dense)]
    heads += make_head(head[0], encoder.dim, head[1] or encoder.dim, seed=seed)
    grown = without_projector(encoder, [dense.to(encoder.device) for dense in heads])
    kept = [dense for dense in encoder.projector if isinstance(dense, Dense)] if head[0] == "none" else []
    made = make_projector(projector[0], grown.dim, projector[1], seed=seed + 1) or kept
    grown.projector = nn.ModuleList(dense.to(encoder.device) for dense in made)
    return grown


def _refuse_images(asked: Mapping[str, bool]) -> None:
    for name, is_asked in asked.items():
        if is_asked:
            raise BadConfig(f"{name}: it is of texts' transformers, or of another kind of image tower. Leave it out.")


def _towers(encoder: AnyEncoder) -> list[Tower]:
    if isinstance(encoder, ImageTextEncoder):
        return [] if isinstance(encoder.text, ClipText) else [encoder.text]
    if isinstance(encoder, ImageEncoder):
        return []
    return [encoder.query, encoder.document] if isinstance(encoder, TwoTowerEncoder) else [encoder]


def _refuse_static(names: list[str]) -> None:
    if names:
        raise BadConfig(
            f"{names[0]}: a static encoder is one table of tokens and has no such part. Leave it out, or train a transformer."
        )


def _with_parts(encoder: Tower, head: HeadKind, head_dim: int | None, cut: int | None, seed: int) -> Tower:
    """A tower with a new head after its own and its rows cut; the same one where nothing is asked for."""
    if head == "none" and cut is None:
        return encoder
    if isinstance(encoder, StaticEncoder):
        _refuse_static(["model.head"] if head != "none" else [])
        return cut_rows(encoder, cut)
    heads = [dense for dense in encoder.heads if isinstance(dense, Dense)]
    width = heads[-1].out_features if heads else int(encoder.model.config.hidden_size)
    made = [dense.to(encoder.device) for dense in make_head(head, width, head_dim or width, seed=seed)]
    return cut_rows(rebuild(encoder, [*heads, *made], encoder.truncate_dim), cut)


def rebuild(
    encoder: TransformerEncoder, heads: Sequence[Dense], cut: int | None, *, normalize: bool | None = None
) -> TransformerEncoder:
    """Another encoder around the same model and tokenizer, with these dense layers and this cut; `normalize` None: as it was."""
    return TransformerEncoder(
        encoder.model,
        encoder.hf_tokenizer,
        pooling=encoder.pooling,
        normalize=encoder.normalize if normalize is None else normalize,
        prompts=encoder.prompts,
        max_length=encoder.max_length,
        heads=heads,
        truncate_dim=cut,
    ).train(encoder.training)


def cut_rows(encoder: _E, dim: int | None) -> _E:
    """The encoder whose rows keep their first `dim` dimensions (None: all); a table is cut itself. The one given is not changed.

    Raises `BadConfig` where there are not so many.
    """
    if dim is None:
        return encoder
    if not 1 <= dim <= encoder.dim:
        raise BadConfig(f"truncate_dim={dim}: these rows have {encoder.dim} dimensions. Keep from 1 to {encoder.dim}.")
    if isinstance(encoder, TwoTowerEncoder):
        return TwoTowerEncoder(cut_rows(encoder.query, dim), cut_rows(encoder.document, dim))  # pyright: ignore[reportReturnType]
    if isinstance(encoder, (ImageEncoder, ImageTextEncoder)):
        raise BadConfig(f"truncate_dim={dim}: rows of pictures are not cut here. Leave it out.")
    if isinstance(encoder, StaticEncoder):
        options = {"max_length": encoder.max_length, "prompts": encoder.prompts, "normalize": encoder.normalize}
        return StaticEncoder(encoder.weight[:, :dim], encoder.tokenizer, **options)  # pyright: ignore[reportReturnType,reportArgumentType]
    heads = [dense for dense in encoder.heads if isinstance(dense, Dense)]
    return rebuild(encoder, heads, dim)  # pyright: ignore[reportReturnType]


def _freeze_front(encoder: TransformerEncoder, layers: int, embeddings: bool) -> None:
    """Freeze the first `layers` layers, and what turns tokens into their first rows."""
    found = _layers(encoder)
    if layers > len(found):
        raise BadConfig(
            f"model.freeze_layers={layers}: this {encoder.model.config.model_type} has {len(found)} layers. Freeze that many at most."
        )
    fixed: list[nn.Module] = list(found[:layers])
    if embeddings:
        table = encoder.model.get_input_embeddings()
        # the child of the model that holds the table: with it, the positions and the norm after them
        fixed += [child for child in encoder.model.children() if any(part is table for part in child.modules())]
    for part in fixed:
        part.requires_grad_(False)


def _layers(encoder: TransformerEncoder) -> list[nn.Module]:
    """The transformer's layers in order: its outermost list of that many modules."""
    count = int(encoder.model.config.num_hidden_layers)
    lists = [part for _, part in encoder.model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    return list(lists[0]) if lists else []

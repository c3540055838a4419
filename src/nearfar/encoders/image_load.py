"""Open what has an image tower: our own folders, vision models, CLIP and SigLIP as transformers saves them; make fresh towers by name.

Names, beside those of `load_encoder`: `small-image` and `small-image:64` (a fresh small network for pictures of 32 or 64 pixels), `image:CONFIG.json` (a
fresh vision model of transformers), `image:FOLDER` (the image tower alone of any folder), `clip:IMAGE+TEXT` (an image tower and any text encoder,
with a fresh projection on each, as in clip:small-image:64+minilm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from nearfar.encoders.clip_text import ClipText
from nearfar.encoders.dense import Dense, load_dense, load_weights, make_head
from nearfar.encoders.image_text import Hub, ImageTextEncoder, TextTower, without_projector
from nearfar.encoders.small_net import SmallNet
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.encoders.vision import FORMAT, SETTINGS, SMALLEST, ImageEncoder, ImagePooling, with_group_norms
from nearfar.errors import BadConfig, BadInput, Damaged
from nearfar.files import read_json, settle_folder

ImageOrPair = ImageEncoder | ImageTextEncoder
CLIP_DIM = 256
"""Width of the space of a fresh pair of towers unless told otherwise."""
SMALL_SIZE = 32
WEIGHTS = "model.safetensors"
_HUBS = ("clip", "siglip")
_COLOURS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation of the colours that CLIP, SigLIP and models of ImageNet were trained with, where a folder does not say."""
_FIRST_TOKEN = ("vit", "deit", "vit_msn", "beit")
"""Models whose pooler is a layer of their own training, often absent: their row is that of the first token."""


def small_image(size: int = SMALL_SIZE, *, widths: tuple[int, ...] | None = None, seed: int = 0) -> ImageEncoder:
    """A fresh small network for pictures of `size` pixels on a side; see `SmallNet`."""
    net = SmallNet(seed=seed) if widths is None else SmallNet(widths, seed=seed)
    return ImageEncoder(net, size=size, mean=(0.5,) * 3, std=(0.25,) * 3).eval()


def pair_towers(image: ImageEncoder, text: TextTower, *, dim: int | None = None, seed: int = 0) -> ImageTextEncoder:
    """Two towers with a fresh linear projection on each, to rows of `dim` (default 256); a projector of the image tower is left out."""
    width = dim or CLIP_DIM
    return ImageTextEncoder(
        without_projector(image, make_head("linear", image.width, width, seed=seed)),
        text,
        make_head("linear", text.dim, width, seed=seed + 1),
    ).eval()


def fresh_image(path: Path, *, seed: int = 0) -> ImageEncoder:
    """A vision model of transformers with weights drawn by the seed, from its configuration (JSON with `model_type`).

    Batch norms become group norms: see `ImageEncoder`. Raises `BadInput` where the file describes no vision model.
    """
    from transformers import AutoConfig, AutoModel

    told = read_json(path)
    if not isinstance(told, dict) or not is_vision(told):
        raise BadInput(
            f"{path}: this is no configuration of a vision model (model_type, image_size or num_channels). Give one."
        )
    config = AutoConfig.for_model(**told)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, **_options(told))
    return _image_encoder(with_group_norms(model), path.parent, told)


def is_vision(config: Mapping[str, Any]) -> bool:
    """Whether a configuration of transformers is that of a vision model alone."""
    return "model_type" in config and "vocab_size" not in config and ("num_channels" in config or "image_size" in config)


def has_image_tower(folder: Path) -> bool:
    """Whether a model folder is one of ours with an image tower, a vision model, a CLIP or a SigLIP."""
    settle_folder(folder)
    if (folder / SETTINGS).exists():
        return True
    if (folder / "modules.json").exists() or not (folder / "config.json").exists():
        return False
    config = read_json(folder / "config.json")
    return isinstance(config, dict) and (config.get("model_type") in _HUBS or is_vision(config))


def open_images(folder: Path, max_length: int | None, open_text: Callable[[Path, int | None], object]) -> ImageOrPair:
    """Open a folder of which `has_image_tower` is true; `open_text` opens the text tower of one of ours.

    Raises `BadInput` for a folder of another version, `Damaged` where files are torn or missing.
    """
    if not (folder / SETTINGS).exists():
        told = read_json(folder / "config.json")
        if told["model_type"] in _HUBS:
            return _open_hub(folder, str(told["model_type"]), max_length)
        model = _from_pretrained(folder, **_options(told))
        return _image_encoder(model, folder, told)
    path = folder / SETTINGS
    told = read_json(path)
    if not isinstance(told, dict) or told.get("format") != FORMAT or told.get("kind") not in ("image", "image-text"):
        raise BadInput(
            f"{path}: expected format {FORMAT!r} of kind 'image' or 'image-text'. Open it with the nearfar that wrote it."
        )
    try:
        image = _open_image(folder, told["image"])
        if told["kind"] == "image":
            return image
        text = open_text(folder / "text", max_length)
        assert isinstance(text, (StaticEncoder, TransformerEncoder))
        heads = [load_dense(folder / f"text_head_{number}") for number in range(told["text_heads"])]
        return ImageTextEncoder(image, text, heads).eval()
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path}: {error} is missing or of the wrong kind. Restore the file or save the model again.") from error


def image_tower(encoder: object, name: str) -> ImageEncoder:
    """The image tower of an encoder. Raises `BadInput` where it has none."""
    if isinstance(encoder, ImageTextEncoder):
        return encoder.image
    if not isinstance(encoder, ImageEncoder):
        raise BadInput(
            f"{name}: this model has no image tower. Give small-image, or the folder of a vision model, a CLIP or a SigLIP."
        )
    return encoder


def small_size(name: str) -> int:
    """The pixels of `small-image` or `small-image:SIZE`. Raises `BadConfig` for what is no size."""
    size = name.removeprefix("small-image").removeprefix(":")
    if size and not (size.isdecimal() and int(size) >= SMALLEST):
        raise BadConfig(
            f"{name}: expected small-image:SIZE with the side of a picture in pixels, {SMALLEST} or more, as in small-image:64."
        )
    return int(size or SMALL_SIZE)


def _open_image(folder: Path, told: Mapping[str, Any]) -> ImageEncoder:
    place = folder / "image"
    if told["net"] == "small":
        model: Any = SmallNet.of(told)
        load_weights(model, place / WEIGHTS)
    elif told["group_norms"] and read_json(place / "config.json").get("model_type") == "resnet":
        model = _with_groups(place)
    else:
        model = _from_pretrained(place, **_options(read_json(place / "config.json")))
    heads = [load_dense(folder / f"image_head_{number}") for number in range(told["heads"])]
    projector = [load_dense(folder / f"image_projector_{number}") for number in range(told["projector"])]
    kept = {name: told[name] for name in ("size", "mean", "std", "pooling", "normalize", "cost")}
    return ImageEncoder(model, **kept, heads=heads, projector=projector).eval()


def _with_groups(place: Path) -> Any:
    """A model whose batch norms are group norms: made from its configuration, changed, then filled."""
    from transformers import AutoConfig, AutoModel

    with torch.random.fork_rng(devices=[]):
        model = with_group_norms(AutoModel.from_config(AutoConfig.from_pretrained(place, local_files_only=True)))
    load_weights(model, place / WEIGHTS)
    return model


def _image_encoder(model: Any, folder: Path, config: Mapping[str, Any], *, colours: str = "", heads: list[Dense] | None = None):
    """The encoder of a vision model, with the size and the colours its folder says."""
    kind = str(config.get("model_type", ""))
    family = colours or next((name for name in _HUBS if kind.startswith(name)), "")
    path = folder / "preprocessor_config.json"
    told = read_json(path) if path.exists() else {}
    mean, std = _COLOURS[family]
    pooling: ImagePooling = "cls" if kind in _FIRST_TOKEN else "pooler"
    return ImageEncoder(
        model,
        size=_size(told, config),
        mean=told.get("image_mean") or mean,
        std=told.get("image_std") or std,
        pooling=pooling,
        heads=heads or (),
    ).eval()


def _size(told: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    for found in (config.get("image_size"), told.get("crop_size"), told.get("size")):
        if isinstance(found, dict):
            found = found.get("height") or found.get("shortest_edge")
        if isinstance(found, (list, tuple)) and found:
            found = found[0]
        if isinstance(found, int):
            return found
    return 224


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"add_pooling_layer": False} if config.get("model_type") in _FIRST_TOKEN else {}


def _from_pretrained(place: Path, **options: Any) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging

    if not any(place.glob("*.safetensors")):
        raise BadInput(f"{place}: there are no weights (model.safetensors). Fetch or save the whole model folder again.")
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoModel.from_pretrained(place, local_files_only=True, use_safetensors=True, dtype=torch.float32, **options)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise Damaged(f"{place}: the model cannot be opened ({first}). Fetch or save the whole folder again.") from error
    finally:
        logging.set_verbosity(before)


def _open_hub(folder: Path, kind: str, max_length: int | None) -> ImageTextEncoder:
    """A `CLIPModel` or a `SiglipModel`, its projections as dense layers, so that it saves back as what it was."""
    from transformers import AutoTokenizer

    model = _from_pretrained(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise Damaged(
            f"{folder}: there is no tokenizer beside the model ({error}). Fetch or save the whole folder again."
        ) from error
    heads = [_dense(model.visual_projection)] if kind == "clip" else []
    image = _image_encoder(model.vision_model, folder, model.config.vision_config.to_dict(), colours=kind, heads=heads)
    text = ClipText(model.text_model, tokenizer, max_length=max_length)
    bias = model.logit_bias.detach().clone() if kind == "siglip" else None
    hub = Hub(model.config, model.logit_scale.detach().clone(), bias)
    return ImageTextEncoder(image, text, [_dense(model.text_projection)] if kind == "clip" else [], hub=hub).eval()


def _dense(linear: torch.nn.Linear) -> Dense:
    made = Dense(linear.in_features, linear.out_features, bias=linear.bias is not None)
    made.linear = linear
    return made

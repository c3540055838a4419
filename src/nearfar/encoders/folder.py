"""The model folder: how an encoder lies on disk, read and written as sentence-transformers 6.2 reads and writes it.

`modules.json` names the parts, `1_Pooling/config.json` the pooling, `config_sentence_transformers.json` the prompts,
`sentence_bert_config.json` the length. Weights are safetensors only: a pickle can run code when it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nearfar.encoders.tokens import NO_PROMPTS, Prompts
from nearfar.errors import BadInput, Damaged
from nearfar.files import read_json, settle_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

PoolingMode = Literal["mean", "cls", "last"]
"""How a transformer's token rows become one: their mean, the first token's, or the last token's."""

POOLING_NAMES: dict[PoolingMode, str] = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
"""Our name -> sentence-transformers' name."""

_OLD_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

_MODULE_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "StaticEmbedding": "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


@dataclass(frozen=True)
class Layout:
    """What a model folder says about its encoder, weights and tokenizer apart.

    `module` is the subfolder of the weights ("" is the folder itself), `max_length` the number of tokens a text is cut to
    (None: not said), `lowercase` whether texts are lowercased before the tokenizer, `note` what had to be assumed, in a sentence.
    """

    kind: Literal["static", "transformer"]
    pooling: PoolingMode = "mean"
    normalize: bool = True
    prompts: Prompts = NO_PROMPTS
    max_length: int | None = None
    module: str = ""
    lowercase: bool = False
    note: str = ""


def read_layout(folder: Path) -> Layout:
    """Read what a folder is. A plain transformers folder (no modules.json) is mean pooled to unit rows, and `note` says so.

    A folder without a Normalize module is read as unit rows all the same where its similarity is the cosine (the default),
    since that keeps every similarity; where it says dot product or a distance, rows keep their length.
    Raises `BadInput` where it is no model folder or holds a part that nearfar cannot run, `Damaged` where a file is torn.
    """
    settle_folder(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder. Check the path.")
    if not (folder / "modules.json").exists():
        if not (folder / "config.json").exists():
            raise BadInput(
                f"{folder}: this is not a model folder: neither modules.json (sentence-transformers) nor config.json "
                "(transformers) is there. Give the folder that holds one of them."
            )
        _require_weights(folder)
        return Layout("transformer", note="no modules.json: mean pooling and unit rows are assumed")
    settings = _read_object(folder / "config_sentence_transformers.json") or {}
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise BadInput(
            f"{folder / 'config_sentence_transformers.json'}: model_type is {settings['model_type']!r}, which does not turn a "
            "text into one row. Choose a SentenceTransformer model."
        )
    parts = _read_parts(folder)
    kind = "static" if "StaticEmbedding" in parts else "transformer"
    module = parts["StaticEmbedding" if kind == "static" else "Transformer"]
    _require_weights(folder / module)
    prompts = _read_prompts(settings)
    unit = "Normalize" in parts or (settings.get("similarity_fn_name") or "cosine") == "cosine"
    note = "" if unit == ("Normalize" in parts) else "no Normalize module but cosine similarity: rows are made unit"
    if kind == "static":
        return Layout("static", normalize=unit, prompts=prompts, module=module, note=note)
    pooling = _read_pooling(folder / parts["Pooling"] / "config.json", prompts)
    lengths = _read_object(folder / module / "sentence_bert_config.json") or {}
    longest = lengths.get("max_seq_length")
    lowercase = bool(lengths.get("do_lower_case", False))
    return Layout("transformer", pooling, unit, prompts, longest, module, lowercase, note)


def write_layout(folder: Path, layout: Layout, *, dim: int = 0) -> None:
    """Write the JSON files that say what this folder is; `dim` is the width of a transformer's rows."""
    first = "StaticEmbedding" if layout.kind == "static" else "Transformer"
    names = [first, *(["Pooling"] if layout.kind == "transformer" else []), *(["Normalize"] if layout.normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": _MODULE_TYPES[name]}
        for i, name in enumerate(names)
    ]
    write_json(folder / "modules.json", modules)
    settings = {
        "model_type": "SentenceTransformer",
        "__version__": {"sentence_transformers": "6.2.0"},
        "prompts": {"query": layout.prompts.query, "document": layout.prompts.document},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if layout.normalize else "dot",
    }
    write_json(folder / "config_sentence_transformers.json", settings)
    if layout.kind == "transformer":
        mode = POOLING_NAMES[layout.pooling]
        pooling: dict[str, object] = {"embedding_dimension": dim, "pooling_mode": mode, "include_prompt": True}
        pooling |= {"word_embedding_dimension": dim} | {key: name == mode for name, key in _OLD_POOLING_KEYS.items()}
        write_json(folder / "1_Pooling" / "config.json", pooling)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": layout.max_length, "do_lower_case": False})
    if layout.normalize:
        write_json(folder / f"{len(names) - 1}_Normalize" / "config.json", {"module_input_name": "sentence_embedding"})


def fingerprint_of(tensors: Mapping[str, Tensor], tokenizer: str, settings: Mapping[str, object]) -> str:
    """`sha256:<hex>` over named tensors (name, type, shape, bytes; in name order), a tokenizer's JSON and settings."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{array.dtype}\0{tuple(array.shape)}\0".encode())
        digest.update(array.flatten().view(_BYTES()).numpy().tobytes())
    # the tokenizer's JSON in canonical form: the order of its keys is no part of what it does
    digest.update(json.dumps(json.loads(tokenizer), sort_keys=True).encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def _BYTES() -> Any:
    import torch

    return torch.uint8


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise Damaged(f"{path}: found a {type(value).__name__}, expected a JSON object. Restore the file.")
    return value


def _read_parts(folder: Path) -> dict[str, str]:
    """Module name -> subfolder, in order; refuses anything but [StaticEmbedding | Transformer, Pooling] and Normalize."""
    path = folder / "modules.json"
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(m, dict) and "type" in m and "path" in m for m in found):
        raise Damaged(f"{path}: expected a list of modules, each with 'type' and 'path'. Restore the file.")
    parts: dict[str, str] = {}
    for number, module in enumerate(found):
        name, place = str(module["type"]).rpartition(".")[2], str(module["path"])
        if name not in _MODULE_TYPES:
            raise BadInput(
                f"{path}: module {number} is {name} ({module['type']}), which nearfar cannot run; it runs "
                f"{', '.join(_MODULE_TYPES)}. Choose a model without {name}."
            )
        if not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise BadInput(f"{path}: module {number} points outside the folder ({place!r}). Use a path inside it.")
        parts[name] = place
    order = [*parts, *([] if "Normalize" in parts else ["Normalize"])]
    if order not in (["StaticEmbedding", "Normalize"], ["Transformer", "Pooling", "Normalize"]):
        raise BadInput(
            f"{path}: the modules are {' -> '.join(parts) or 'none'}; nearfar runs StaticEmbedding or Transformer -> Pooling, "
            "each with or without Normalize at the end. Choose such a model."
        )
    return parts


def _read_prompts(settings: Mapping[str, Any]) -> Prompts:
    known = {name: text for name, text in (settings.get("prompts") or {}).items() if text is not None}
    usual = known.get(settings.get("default_prompt_name") or "", "")
    documents = [known[name] for name in ("document", "passage", "corpus") if known.get(name)]
    return Prompts(known.get("query", usual), documents[0] if documents else known.get("document", usual))


def _read_pooling(path: Path, prompts: Prompts) -> PoolingMode:
    config = _read_object(path)
    if config is None:
        raise Damaged(f"{path}: the file is missing, and with it how token rows become one. Restore it.")
    modes = config.get("pooling_mode") or [name for name, key in _OLD_POOLING_KEYS.items() if config.get(key)] or ["mean"]
    names = [modes] if isinstance(modes, str) else list(modes)
    ours: dict[str, PoolingMode] = {theirs: mode for mode, theirs in POOLING_NAMES.items()}
    if len(names) != 1 or names[0] not in ours:
        raise BadInput(
            f"{path}: the pooling is {' + '.join(map(str, names))}; nearfar pools by {', '.join(get_args(PoolingMode))}. "
            "Choose a model pooled by one of these."
        )
    if config.get("include_prompt", True) is False and any(prompts):
        raise BadInput(
            f"{path}: include_prompt is false: nearfar cannot leave a prompt out of the pooling. Choose another model."
        )
    return ours[names[0]]


def _require_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("pytorch_model*.bin")):
        raise BadInput(
            f"{folder}: the weights are a pickle (pytorch_model.bin), which can run code when opened, so nearfar does not read "
            "it. Convert it where you trust it: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    raise BadInput(f"{folder}: there are no weights (model.safetensors). Fetch the whole model folder again.")

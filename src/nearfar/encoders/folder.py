"""The model folder: how an encoder lies on disk, read and written as sentence-transformers 6.2 reads and writes it.

`modules.json` names the parts, `1_Pooling/config.json` the pooling, `config_sentence_transformers.json` the prompts and the cut of the
rows, `sentence_bert_config.json` the length, `router_config.json` two towers. Weights are safetensors only: a pickle can run code
when it is opened.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nearfar.encoders.pooling import POOLING_NAMES, PoolingMode
from nearfar.encoders.tokens import NO_PROMPTS, Prompts
from nearfar.errors import BadInput, Damaged
from nearfar.files import read_json, settle_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

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
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Router": "sentence_transformers.base.modules.router.Router",
}
_OLD_NAMES = {"Asym": "Router"}
_LENGTH_FILES = [
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
"""Where versions of sentence-transformers kept the length; the first that is there counts."""

Part = tuple[str, str]
"""A module's name (a key of `_MODULE_TYPES`) and its subfolder ("" is the folder itself)."""


@dataclass(frozen=True)
class Layout:
    """What a model folder says about its encoder, weights and tokenizer apart.

    `module` is the subfolder of the weights ("" is the folder itself), `max_length` the number of tokens a text is cut to
    (None: not said), `lowercase` whether texts are lowercased before the tokenizer, `dense` the subfolders of the dense layers on the
    pooled row, `truncate_dim` the dimensions that are kept (None: all), `towers` the layouts for queries and for documents where
    there are two encoders, `note` what had to be assumed, in a sentence.
    """

    kind: Literal["static", "transformer", "towers"]
    pooling: PoolingMode = "mean"
    normalize: bool = True
    prompts: Prompts = NO_PROMPTS
    max_length: int | None = None
    module: str = ""
    lowercase: bool = False
    dense: tuple[str, ...] = ()
    truncate_dim: int | None = None
    towers: tuple[Layout, ...] = ()
    note: str = ""


def read_layout(folder: Path) -> Layout:
    """Read what a folder is. A plain transformers folder (no modules.json) is mean pooled to unit rows, and `note` says so.

    A folder without a Normalize module is read as unit rows all the same where its similarity is the cosine (the default),
    since that keeps every similarity; where it says dot product or a distance, rows keep their length.
    Raises `BadInput` where it is no model folder or holds a part that nearfar cannot run, `Damaged` where a file is torn.
    """
    settle_folder(folder)
    if not folder.is_dir():
        if folder.exists():
            raise BadInput(
                f"{folder}: this is a file, and a model is a folder. Give the folder of config.json and the weights."
            )
        raise BadInput(f"{folder}: no such folder. Check the path.")
    if is_cross_encoder(folder):
        raise BadInput(
            f"{folder}: this is a cross-encoder (a ...ForSequenceClassification): it scores a query and a document read together, and has no row for "
            f"one text. Its scores teach: nearfar mine PAIRS --model static --teacher {shlex.quote(str(folder))} -o MINED. Here give an encoder."
        )
    if not (folder / "modules.json").exists():
        if not (folder / "config.json").exists():
            if (folder / "run.json").exists():
                raise BadInput(
                    f"{folder}: this run has not finished: it has no model/ yet. Go on with its `nearfar train` command and --resume."
                )
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
    if parts and parts[0][0] == "Router":
        return _read_towers(folder, parts, settings)
    return _read_pipeline(folder, parts, settings, folder / "modules.json")


def is_cross_encoder(folder: Path | str) -> bool:
    """Whether the folder's config.json names a model for sequence classification, and no modules.json makes an encoder of it.

    sentence-transformers writes modules.json for either kind; `model_type` beside it says which.
    """
    told, settings = (_glance(Path(folder) / name) for name in ("config.json", "config_sentence_transformers.json"))
    if (Path(folder) / "modules.json").exists() and settings.get("model_type") != "CrossEncoder":
        return False
    named = told.get("architectures")
    return isinstance(named, list) and any(str(name).endswith("ForSequenceClassification") for name in named)


def _glance(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it cannot be read or holds no object, which is for others to say."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_pipeline(folder: Path, parts: Sequence[Part], settings: Mapping[str, Any], path: Path) -> Layout:
    """The layout of [StaticEmbedding | Transformer, Pooling, Dense*] with or without Normalize; `path` is the file that lists them."""
    names = [name for name, _ in parts]
    while names[-2:] == ["Normalize", "Normalize"]:  # a route's own, and one after the Router: once is the same
        names.pop()
    kinds = names[:-1] if names[-1:] == ["Normalize"] else names
    if kinds != ["StaticEmbedding"] and (kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense"}):
        raise BadInput(
            f"{path}: the modules are {' -> '.join(names) or 'none'}; nearfar runs StaticEmbedding, or Transformer -> Pooling -> Dense "
            "(any number of these), each with or without Normalize at the end. Choose such a model."
        )
    module = parts[0][1]
    _require_weights(folder / module)
    prompts = _read_prompts(settings)
    unit = "Normalize" in names or (settings.get("similarity_fn_name") or "cosine") == "cosine"
    note = "" if unit == ("Normalize" in names) else "no Normalize module but cosine similarity: rows are made unit"
    cut = settings.get("truncate_dim")
    if cut is not None and (not isinstance(cut, int) or isinstance(cut, bool) or cut < 1):
        raise Damaged(
            f"{folder / 'config_sentence_transformers.json'}: truncate_dim is {cut!r}, expected a number from 1. Restore it."
        )
    common = Layout("static", normalize=unit, prompts=prompts, module=module, truncate_dim=cut, note=note)
    if kinds == ["StaticEmbedding"]:
        return common
    lengths = next((found for name in _LENGTH_FILES if (found := _read_object(folder / module / name))), {})
    return replace(
        common,
        kind="transformer",
        pooling=_read_pooling(folder / parts[1][1] / "config.json", prompts),
        max_length=lengths.get("max_seq_length"),
        lowercase=bool(lengths.get("do_lower_case", False)),
        dense=tuple(place for name, place in parts if name == "Dense"),
    )


def _read_towers(folder: Path, parts: Sequence[Part], settings: Mapping[str, Any]) -> Layout:
    """The layout of a Router with one route for queries and one for documents; what comes after it is part of both towers."""
    place = folder / parts[0][1]
    path = place / "router_config.json"
    router = _read_object(path) or _read_object(place / "config.json") or {}
    try:
        routes = {str(name): [str(part) for part in ids] for name, ids in router["structure"].items()}
        types = {str(part): str(kind) for part, kind in router["types"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path}: expected 'structure' (route -> modules) and 'types' (module -> class). Restore the file."
        ) from error
    mappings = (router.get("parameters") or {}).get("route_mappings")
    if unknown := [part for ids in routes.values() for part in ids if part not in types]:
        raise Damaged(f"{path}: 'types' says nothing of {', '.join(unknown)}. Restore the file.")
    if set(routes) != {"query", "document"} or mappings:
        told = f"{', '.join(routes) or 'none'}{f' with route_mappings {mappings}' if mappings else ''}"
        raise BadInput(f"{path}: the routes are {told}; nearfar runs a Router of query and document. Choose such a model.")
    if both := set(routes["query"]) & set(routes["document"]):
        raise BadInput(
            f"{path}: both routes share {', '.join(sorted(both))}; nearfar runs towers that share nothing. Choose such a model, or save "
            "it without a Router where the routes are the same."
        )
    found: list[Layout] = []
    for role in ("query", "document"):
        own = [(_module_name(path, types[part]), str(Path(parts[0][1]) / part)) for part in routes[role]]
        for _, inside in own:
            _require_inside(folder, path, inside)
        found.append(_read_pipeline(folder, [*own, *parts[1:]], settings, path))
    return Layout("towers", normalize=found[0].normalize, prompts=found[0].prompts, towers=tuple(found))


def part_path(prefix: str, number: int, name: str) -> str:
    """The subfolder of a part: the first of a plain folder is the folder itself, parts of a tower carry its prefix."""
    return f"{prefix}{number}_{name}" if number or prefix else ""


def write_modules(folder: Path, parts: Sequence[Part]) -> None:
    """Write modules.json: the parts a text goes through, in order."""
    modules = [{"idx": i, "name": str(i), "path": place, "type": _MODULE_TYPES[name]} for i, (name, place) in enumerate(parts)]
    write_json(folder / "modules.json", modules)


def write_router(folder: Path, query: Sequence[Part], document: Sequence[Part]) -> None:
    """Write router_config.json and modules.json of two towers whose parts lie in `folder`; a text of no role is a document."""
    types = {place: _MODULE_TYPES[name] for name, place in [*query, *document]}
    structure = {"query": [place for _, place in query], "document": [place for _, place in document]}
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    write_modules(folder, [("Router", "")])


def write_settings(folder: Path, prompts: Prompts, *, normalize: bool, truncate_dim: int | None = None) -> None:
    """Write config_sentence_transformers.json: prompts, the similarity, the dimensions kept."""
    settings: dict[str, object] = {
        "model_type": "SentenceTransformer",
        "__version__": {"sentence_transformers": "6.2.0"},
        "prompts": {"query": prompts.query, "document": prompts.document},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if normalize else "dot",
    }
    if truncate_dim is not None:
        settings["truncate_dim"] = truncate_dim
    write_json(folder / "config_sentence_transformers.json", settings)


def write_pooling(folder: Path, pooling: PoolingMode, width: int) -> None:
    """Write the config.json of a Pooling part, with today's keys and the older ones, which other programs read."""
    mode = POOLING_NAMES[pooling]
    told: dict[str, object] = {"embedding_dimension": width, "pooling_mode": mode, "include_prompt": True}
    told |= {"word_embedding_dimension": width} | {key: name == mode for name, key in _OLD_POOLING_KEYS.items()}
    write_json(folder / "config.json", told)


def write_length(folder: Path, max_length: int) -> None:
    """Write the sentence_bert_config.json of a Transformer part."""
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})


def write_normalize(folder: Path) -> None:
    """Write the config.json of a Normalize part."""
    write_json(folder / "config.json", {"module_input_name": "sentence_embedding"})


def fingerprint_of(tensors: Mapping[str, Tensor], tokenizer: str, settings: Mapping[str, object]) -> str:
    """`sha256:<hex>` over named tensors (name, type, shape, bytes; in name order), a tokenizer's JSON and settings."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{array.dtype}\0{tuple(array.shape)}\0".encode())
        digest.update(array.flatten().view(_BYTES()).numpy().tobytes())
    digest.update(_canonical(tokenizer))
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


@lru_cache(maxsize=4)
def _canonical(tokenizer: str) -> bytes:
    """A tokenizer's JSON with its keys in order, which is no part of what it does. Kept: a tokenizer of 30,000 words takes longer than all else of a fingerprint."""
    return json.dumps(json.loads(tokenizer), sort_keys=True).encode()


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


def _read_parts(folder: Path) -> list[Part]:
    """(module name, subfolder) in order; refuses what is not in `_MODULE_TYPES`, by name."""
    path = folder / "modules.json"
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(m, dict) and "type" in m and "path" in m for m in found):
        raise Damaged(f"{path}: expected a list of modules, each with 'type' and 'path'. Restore the file.")
    parts = [(_module_name(path, str(module["type"])), str(module["path"])) for module in found]
    for _, place in parts:
        _require_inside(folder, path, place)
    return parts


def _module_name(path: Path, kind: str) -> str:
    """The name of a module's class, as it is called today. Nothing is imported by what a file says."""
    short = kind.rpartition(".")[2]
    name = _OLD_NAMES.get(short, short)
    if name not in _MODULE_TYPES:
        raise BadInput(
            f"{path}: there is a module {short} ({kind}), which nearfar cannot run; it runs {', '.join(_MODULE_TYPES)}. "
            f"Choose a model without {short}."
        )
    return name


def _require_inside(folder: Path, path: Path, place: str) -> None:
    if not (folder / place).resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{path}: a module points outside the folder ({place!r}). Use a path inside it.")


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
    if (folder / "adapter_config.json").exists():
        raise BadInput(
            f"{folder}: there are no weights of the adapter (adapter_model.safetensors). Fetch the whole folder again."
        )
    if any(folder.glob("pytorch_model*.bin")):
        raise BadInput(
            f"{folder}: the weights are a pickle (pytorch_model.bin), which can run code when opened, so nearfar does not read "
            "it. Convert it where you trust it: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)."
        )
    raise BadInput(f"{folder}: there are no weights (model.safetensors). Fetch the whole model folder again.")

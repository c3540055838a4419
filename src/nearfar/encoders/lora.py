"""Low-rank adapters on a transformer, through `peft`: put on, merged into plain weights, kept apart, read back.

LoRA (Hu 2021): W + (alpha / rank) B A with A drawn and B zero, so that training starts from the model as it is.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nearfar.errors import BadConfig, BadInput, Damaged, Missing
from nearfar.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
"""The target that names every linear layer."""
_ADAPTER = "default"
_LAYER = re.compile(r"(.*)\.(base_layer|lora_\w+)\.(.*)")


@dataclass(frozen=True)
class LoraOptions:
    """Rank and scale of the adapters; `targets` are names of layers (the ends of their paths), empty for peft's choice for this kind of
    model, or every linear layer where peft has none."""

    rank: int
    alpha: float | None = None
    """None: twice the rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


def put_adapters(model: PreTrainedModel, options: LoraOptions, *, seed: int) -> None:
    """Put adapters on the model in place: they alone take gradients from then on; the vectors stay as they were.

    Raises `Missing` without `peft`, `BadConfig` where no layer has a target's name or the model has adapters already.
    """
    _require_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES

    if has_adapters(model):
        raise BadConfig(
            "lora.rank: this encoder has adapters already. Save it and load it again, which merges them, or train from the base."
        )
    alpha = 2.0 * options.rank if options.alpha is None else options.alpha
    targets: Any = list(options.targets) or CHOICES.get(model.config.model_type) or ALL_LINEAR
    if targets == [ALL_LINEAR]:
        targets = ALL_LINEAR
    config = LoraConfig(
        r=options.rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - peft divides it, a float does
        lora_dropout=options.dropout,
        target_modules=targets,
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=model.config.name_or_path,
    )
    was = model.training
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model, _ADAPTER)
        except ValueError as error:
            linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
            raise BadConfig(
                f"lora.targets={','.join(options.targets)}: no layer of this {model.config.model_type} can take them. Its linear layers "
                f"are named {', '.join(linear)}; {ALL_LINEAR} names them all."
            ) from error
    model.train(was)


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether the model is trained through adapters."""
    return getattr(model, "peft_config", None) is not None


def plain_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's state without adapters: every adapted weight with its adapter merged in, under the name it has in the plain model.

    An adapter that is still zero leaves its weight as it is, bit for bit.
    """
    state = model.state_dict()
    if not has_adapters(model):
        return state
    modules: dict[str, Any] = dict(model.named_modules())
    plain: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in state.items():
            found = _LAYER.fullmatch(name)
            if found is None:
                plain[name] = tensor
            elif found[2] == "base_layer":
                if found[3] == "weight" and bool((change := modules[found[1]].get_delta_weight(_ADAPTER)).any()):
                    tensor = tensor + change.to(tensor)
                plain[f"{found[1]}.{found[3]}"] = tensor
    return plain


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters alone, as `peft` keeps them, where the model has any. They stand on the base that they were put on."""
    if not has_adapters(model):
        return
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}', '')}": tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if (found := _LAYER.fullmatch(name)) is not None and found[2] != "base_layer"
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    peft_config: Any = model.peft_config
    told: dict[str, Any] = peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
    # sets have no order of their own: the same adapter is to be the same file
    write_json(folder / "adapter_config.json", {k: sorted(v) if isinstance(v, set) else v for k, v in told.items()})


def base_of_adapter(folder: Path) -> str:
    """What an adapter's folder says it stands on. Raises `BadInput` for an adapter that is no LoRA or has no safetensors, `Damaged`."""
    path = folder / "adapter_config.json"
    config = read_json(path)
    if not isinstance(config, Mapping):
        raise Damaged(f"{path}: found a {type(config).__name__}, expected a JSON object. Restore the file.")
    if config.get("peft_type") != "LORA":
        raise BadInput(
            f"{path}: the adapter is of type {config.get('peft_type')}, and nearfar merges LORA. Choose such an adapter."
        )
    if not (folder / "adapter_model.safetensors").exists():
        raise BadInput(
            f"{folder}: there is no adapter_model.safetensors (a .bin is a pickle, which can run code when opened). Save the adapter as "
            "safetensors."
        )
    base = config.get("base_model_name_or_path")
    if not base:
        raise BadInput(
            f"{path}: base_model_name_or_path is empty. Write the folder of the model that the adapter was trained on there."
        )
    return str(base)


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base `model` with the adapter of `folder` merged into its weights. Raises `Damaged` where the two do not fit, `Missing`."""
    _require_peft()
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        merged: Any = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise Damaged(
            f"{folder}: the adapter does not fit its base or is torn ({first}). Fetch it again, or name another base."
        ) from error
    return merged.merge_and_unload()


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise Missing("adapters (LoRA) need peft, which is not installed. Install it: pip install 'nearfar[peft]'.")

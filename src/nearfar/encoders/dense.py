"""A dense layer on pooled rows: linear, then an activation, in sentence-transformers' `Dense` folder.

Activations come from a table of torch.nn classes: a name in a file never decides what is imported.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.errors import BadConfig, BadInput, Damaged
from nearfar.files import read_json, write_json

if TYPE_CHECKING:
    from jaxtyping import Float

HeadKind = Literal["none", "linear", "mlp"]
"""What is put on the pooled rows: nothing, one linear map, or SimCLR's linear, ReLU, linear (Chen 2020, section 2)."""

ProjectorKind = Literal["none", "linear", "simclr", "simclr2"]
"""The head of contrastive training on pictures alone: none, one linear map, SimCLR's two layers, or SimCLRv2's three (Chen 2020b, arXiv 2006.10029)."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.ReLU6),
        *(nn.Mish, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    )
}
"""Name -> class of every activation that is run, each with its default arguments, as sentence-transformers makes them."""


class Dense(nn.Module):
    """Rows [b, in] -> [b, out]: activation(x W^T + c), plus x itself (or x R^T where the widths differ) where `residual`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "Identity",
        residual: bool = False,
    ) -> None:
        """Weights are torch's own until `fill` or `load_dense` sets them. Raises `BadConfig` for an activation not in `ACTIVATIONS`."""
        super().__init__()
        if activation not in ACTIVATIONS:
            raise BadConfig(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}.")
        self.in_features, self.out_features, self.activation, self.use_residual = (
            in_features,
            out_features,
            activation,
            residual,
        )
        # its parameters have sentence-transformers' names: linear.weight, linear.bias, residual.weight
        self.linear = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias)
        if residual and in_features != out_features:
            self.residual = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=False)
        self.function = ACTIVATIONS[activation]()

    def forward(self, rows: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        """The rows after this layer."""
        made = self.function(self.linear(rows))
        if not self.use_residual:
            return made
        return made + (rows if self.in_features == self.out_features else self.residual(rows))

    def config(self) -> dict[str, object]:
        """What sentence-transformers keeps in config.json; `use_residual` only where it is set, as it does."""
        kind = type(self.function)
        told: dict[str, object] = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__qualname__}",
            "module_input_name": "sentence_embedding",
            "module_output_name": "sentence_embedding",
        }
        return told | ({"use_residual": True} if self.use_residual else {})


def make_head(kind: HeadKind, width: int, dim: int, *, seed: int) -> list[Dense]:
    """New layers from rows of `width` to rows of `dim`: none, one (linear), or two with a ReLU between (mlp, as wide inside as the rows).

    Weights are uniform within 1 / sqrt(inputs), biases zero; one seed, the same weights on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "none":
        return []
    if kind == "linear":
        return [fill(Dense(width, dim), generator)]
    return [fill(Dense(width, width, activation="ReLU"), generator), fill(Dense(width, dim), generator)]


def make_projector(kind: ProjectorKind, width: int, dim: int, *, seed: int) -> list[Dense]:
    """New layers for training alone, as wide as the rows with a ReLU between, the last to `dim`; drawn as `make_head`'s are."""
    generator = torch.Generator().manual_seed(seed)
    inner = {"none": 0, "linear": 0, "simclr": 1, "simclr2": 2}[kind]
    layers = [fill(Dense(width, width, activation="ReLU"), generator) for _ in range(inner)]
    return layers if kind == "none" else [*layers, fill(Dense(width, dim), generator)]


@torch.no_grad()
def fill(dense: Dense, generator: torch.Generator) -> Dense:
    """Draw the weights of a layer anew and return it."""
    bound = dense.in_features**-0.5
    for name, parameter in dense.named_parameters():
        drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
        parameter.copy_(torch.zeros_like(drawn) if name.endswith("bias") else drawn)
    return dense


def save_dense(dense: Dense, folder: Path) -> None:
    """Write config.json and model.safetensors into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", dense.config())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in dense.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


def load_dense(folder: Path) -> Dense:
    """Read a Dense folder of any version of sentence-transformers.

    Raises `BadInput` for an activation outside `ACTIVATIONS`, for a layer over token rows and for pickled weights, `Damaged` for a torn file.
    """
    path = folder / "config.json"
    config = _config(path)
    try:
        sizes = int(config["in_features"]), int(config["out_features"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path}: in_features and out_features are missing or no numbers. Restore the file.") from error
    where = {config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name")}
    if where != {"sentence_embedding"}:
        raise BadInput(
            f"{path}: this Dense works on {' and '.join(sorted(map(str, where)))}; nearfar runs Dense on the pooled row only "
            "(sentence_embedding). Choose a model without it."
        )
    # a file without the key means the class's default, which is Tanh
    activation = _activation(path, config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    residual = bool(config.get("use_residual", False))
    dense = Dense(*sizes, bias=bool(config.get("bias", True)), activation=activation, residual=residual)
    _fill_from(dense, folder)
    return dense


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise Damaged(f"{path}: found a {type(config).__name__}, expected a JSON object. Restore the file.")
    return config


def _activation(path: Path, found: object) -> str:
    name = str(found)
    short = name.rpartition(".")[2]
    if name.startswith("torch.nn.") and short in ACTIVATIONS:
        return short
    near = difflib.get_close_matches(short, ACTIVATIONS, n=1)
    hint = f" Is {near[0]} meant?" if near else ""
    raise BadInput(
        f"{path}: the activation is {name}, and what a file names is not imported; nearfar runs {', '.join(ACTIVATIONS)} of "
        f"torch.nn.{hint} Choose a model with one of these."
    )


def _fill_from(dense: Dense, folder: Path) -> None:
    weights = folder / "model.safetensors"
    if not weights.exists() and (folder / "pytorch_model.bin").exists():
        raise BadInput(
            f"{folder}: the weights are a pickle (pytorch_model.bin), which can run code when opened, so nearfar does not read it. "
            "Where you trust it: SentenceTransformer(FOLDER).save(FOLDER)."
        )
    load_weights(dense, weights)


def load_weights(module: nn.Module, weights: Path) -> None:
    """Put the tensors of a file into a module, in the module's own dtypes. Raises `Damaged` where the file is torn or is of another module."""
    try:
        module.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise Damaged(f"{weights}: the weights cannot be read ({first}). Restore the file or save the model again.") from error

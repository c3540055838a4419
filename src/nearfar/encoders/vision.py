"""An image encoder: pictures to rows by any vision model of transformers, or by a small network of our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar.encoders import folder as disk
from nearfar.encoders.dense import Dense, save_dense
from nearfar.encoders.pixels import Pixels, read_pixels
from nearfar.encoders.precision import Precision, lowered, lowering
from nearfar.encoders.small_net import SmallNet
from nearfar.encoders.tokens import NO_PROMPTS
from nearfar.errors import BadConfig, BadInput
from nearfar.files import atomic_folder, write_json
from nearfar.types import Role

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

ImagePooling = Literal["pooler", "cls", "mean"]
"""How a vision model's maps become one row: by its own pooler, its first token, or the mean of all tokens."""
SETTINGS = "nearfar.json"
"""Beside the weights of an encoder with an image tower: what sentence-transformers' files have no place for."""
FORMAT = "nearfar-encoder/1"
SMALLEST = 8
"""Pixels on the side of a picture, at least."""
Augment = Callable[["Tensor"], "Tensor"]
"""Another view of each picture: uint8 [n, 3, s, s] to [n, 3, s, s] float32 from 0 to 1. What is random is drawn from torch's global generator."""


class ImageEncoder(nn.Module):
    """Pictures to rows: a vision model, pooled, dense layers if there are any, then unit length unless told otherwise.

    In training mode each picture is another view of it (`augment`, if set), and the rows go on through `projector`, SimCLR's projection head,
    which is kept apart: rows outside training are those before it (Chen 2020, arXiv 2002.05709, section 4.2). `training_dim` is the width there.

    Layers of batch statistics (BatchNorm) stay as they are loaded, also in training: their statistics would be other ones in every micro-batch,
    and be counted twice where a micro-batch is encoded twice. Their gains and offsets train. `with_group_norms` puts GroupNorm in their place.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        size: int,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        pooling: ImagePooling = "pooler",
        normalize: bool = True,
        cost: int | None = None,
        heads: Sequence[Dense] = (),
        projector: Sequence[Dense] = (),
    ) -> None:
        """Own the model, `size` the side of a picture in pixels; `mean` and `std` are those of each colour, from 0 to 1.

        `cost` is what a picture counts as in tokens (default: its patches). Raises `BadConfig` for a size below 8, `BadInput` where the
        widths of the dense layers do not follow from each other.
        """
        super().__init__()
        if size < SMALLEST:
            raise BadConfig(f"size={size}: a picture has at least {SMALLEST} pixels on a side.")
        self.model, self.size, self.normalize = model, size, normalize
        self.pooling: ImagePooling = pooling
        self.mean, self.std = tuple(float(x) for x in mean), tuple(float(x) for x in std)
        self.cost = cost or patches(model, size)
        self.prompts = NO_PROMPTS
        self.max_length = None
        self.augment: Augment | None = None
        """What makes a view of a picture in training mode; None: the picture itself."""
        self.dtype: torch.dtype | None = None
        """What the model multiplies in, where that is not its own."""
        width = model_width(model)
        for dense in (*heads, *projector):
            if dense.in_features != width:
                raise BadInput(
                    f"a dense layer takes rows of {dense.in_features} dimensions, and the rows before it have {width}."
                )
            width = dense.out_features
        self.heads, self.projector = nn.ModuleList(heads), nn.ModuleList(projector)
        self._norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]

    @property
    def width(self) -> int:
        """Width of the pooled row."""
        return model_width(self.model)

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return _last(self.heads, self.width)

    @property
    def training_dim(self) -> int:
        """Width of a row in training mode: after the projector."""
        return _last(self.projector, self.dim)

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        return next(self.model.parameters()).device

    def prepare(self, items: Sequence[str], role: Role = "document") -> Pixels:
        """Pixels of pictures, whatever the role. `BadInput` for text that names no file and for a picture that cannot be read."""
        self.prompts.of(role)
        return read_pixels(items, self.size, self.cost)

    def forward(self, inputs: Pixels) -> Float[Tensor, "b d"]:
        """Rows of prepared pictures, in their order."""
        rows = self.rows(inputs)
        return F.normalize(rows, dim=-1) if self.normalize else rows

    def rows(self, inputs: Pixels) -> Float[Tensor, "b d"]:
        """The rows before normalization: pooled, through the dense layers, in training mode through the projector too."""
        rows = self.headed(self.pooled(inputs))
        for dense in self.projector if self.training else ():
            rows = dense(rows)
        return rows

    def headed(self, rows: Float[Tensor, "b w"]) -> Float[Tensor, "b d"]:
        """Pooled rows through the dense layers."""
        for dense in self.heads:
            rows = dense(rows)
        return rows

    def pooled(self, inputs: Pixels) -> Float[Tensor, "b w"]:
        """The pooled rows, as wide as the model."""
        if len(inputs) == 0:
            return torch.zeros(0, self.width, device=self.device)
        return self.see(inputs.pixels(self.device))

    def see(self, pictures: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b w"]:
        """Pooled rows of pictures already decoded; in training mode of one view of each."""
        seen = self.augment(pictures) if self.training and self.augment is not None else pictures.float() / 255
        mean, std = (torch.tensor(x, device=seen.device)[:, None, None] for x in (self.mean, self.std))
        given = (seen - mean) / std
        for norm in self._norms:
            norm.eval()
        with lowered(self.device, self.dtype):
            found = self.model(pixel_values=given)
        return self._pool(found).float()

    def _pool(self, found: Any) -> Tensor:
        if isinstance(found, Tensor):
            return found
        if self.pooling == "pooler":
            return found.pooler_output.flatten(1)
        tokens = found.last_hidden_state
        tokens = tokens if tokens.ndim == 3 else tokens.flatten(2).transpose(1, 2)
        return tokens[:, 0] if self.pooling == "cls" else tokens.mean(dim=1)

    def computing(self, precision: Precision, *, is_training: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002 - as transformers'
        """Inside, the model multiplies in this precision; rows come out in float32 all the same."""
        return lowering(self, precision)

    def save(self, folder: Path) -> None:
        """Write a folder (whole or not at all) that `load_encoder` loads to the same vectors; the model's part is transformers' own."""
        with atomic_folder(folder) as target:
            self.write_parts(target)
            write_json(target / SETTINGS, {"format": FORMAT, "kind": "image", "image": self.settings()})

    def write_parts(self, folder: Path) -> None:
        """Write the weights below `folder`: `image/` and one folder for each dense layer."""
        place = folder / "image"
        if isinstance(self.model, SmallNet):
            place.mkdir(parents=True)
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}, place / "model.safetensors"
            )
        else:
            from transformers.utils import logging

            logging.disable_progress_bar()
            self.model.save_pretrained(place)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
        for name, layers in (("image_head", self.heads), ("image_projector", self.projector)):
            for number, dense in enumerate(layers):
                assert isinstance(dense, Dense)
                save_dense(dense, folder / f"{name}_{number}")

    def settings(self) -> dict[str, object]:
        """All that decides its vectors beside the weights, as JSON values."""
        kind = self.model.config() if isinstance(self.model, SmallNet) else {"net": "transformers"}
        return {
            **kind,
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "pooling": self.pooling,
            "normalize": self.normalize,
            "cost": self.cost,
            "group_norms": any(isinstance(part, nn.GroupNorm) for part in self.model.modules()),
            "heads": len(self.heads),
            "projector": len(self.projector),
        }

    def fingerprint(self) -> str:
        """`sha256:<hex>` of all that decides the vectors: weights, dense layers, size, colours, pooling, unit rows."""
        return disk.fingerprint_of(dict(self.state_dict()), "null", {"kind": "image", **self.settings()})


def patches(model: nn.Module, size: int) -> int:
    """What a picture counts as in tokens: the patches of a model that cuts it into such, else squares of 16 pixels (of 4 for the small network)."""
    config: Any = getattr(model, "config", None)
    side = 4 if isinstance(model, SmallNet) else getattr(config, "patch_size", None)
    side = side if isinstance(side, int) and "convnext" not in str(getattr(config, "model_type", "")) else 16
    return max(1, math.ceil(size / side) ** 2)


def model_width(model: nn.Module) -> int:
    """Width of a vision model's pooled row. Raises `BadInput` where its configuration does not say it."""
    if isinstance(model, SmallNet):
        return model.width
    config: Any = model.config
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if not isinstance(width, int):
        raise BadInput(
            f"a {config.model_type} does not say how wide its rows are. Choose a vision model that does (ViT, ResNet, ...)."
        )
    return width


def with_group_norms(model: nn.Module) -> nn.Module:
    """Put GroupNorm (32 groups, or as many as divide its channels) with the same gains and offsets in the place of each BatchNorm, in place."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                norm = nn.GroupNorm(math.gcd(32, child.num_features), child.num_features)
                norm.load_state_dict({"weight": child.weight.detach().clone(), "bias": child.bias.detach().clone()})
                setattr(part, name, norm)
    return model


def _last(layers: nn.ModuleList, width: int) -> int:
    found = layers[-1] if len(layers) else None
    return found.out_features if isinstance(found, Dense) else width

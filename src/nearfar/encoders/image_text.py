"""Pictures and texts in one space: an image tower and a text tower, each projected to the same width (Radford 2021, arXiv 2103.00020).

Any text encoder is a text tower: CLIP's or SigLIP's own, a transformer, a token table. A tower whose weights do not move (LiT: Zhai 2022, arXiv
2111.07991) encodes each item once, and never again while it stays so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from nearfar.encoders.at_rest import encode_parts
from nearfar.encoders.clip_text import ClipText
from nearfar.encoders.dense import Dense, save_dense
from nearfar.encoders.pixels import Kept, Mixed, Pixels, mix, read_pixels
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.tokens import Prompts, Tokens, cut_padded
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.encoders.vision import FORMAT, SETTINGS, ImageEncoder
from nearfar.errors import BadInput
from nearfar.files import atomic_folder, write_json
from nearfar.types import Inputs, Picture, Role

if TYPE_CHECKING:
    from jaxtyping import Float

TextTower = StaticEncoder | TransformerEncoder | ClipText
_PICTURES_AT_ONCE, _TOKENS_AT_ONCE = 256, 16_384


class Hub(NamedTuple):
    """What a `CLIPModel` or `SiglipModel` of transformers has beside its towers: its configuration, and the knobs of its loss."""

    config: Any
    logit_scale: Tensor
    logit_bias: Tensor | None = None


class ImageTextEncoder(nn.Module):
    """Pictures through `.image`, texts through `.text` and then `.text_heads`; rows are unit. Items of both kinds may be mixed, whatever their role."""

    def __init__(
        self, image: ImageEncoder, text: TextTower, text_heads: Sequence[Dense] = (), *, hub: Hub | None = None
    ) -> None:
        """Own both towers. Raises `BadInput` where their rows differ in width, or where the image tower has a projector of its own training."""
        super().__init__()
        width = text_heads[-1].out_features if text_heads else text.dim
        if image.dim != width:
            raise BadInput(
                f"the image tower gives rows of {image.dim} dimensions and the text tower of {width}. Give both one width (clip:IMAGE+TEXT "
                "puts a projection on each)."
            )
        if len(image.projector):
            raise BadInput(
                "the image tower has a projector, which is of training with pictures alone. Leave it out: without_projector."
            )
        self.image, self.text, self.text_heads, self.hub = image, text, nn.ModuleList(text_heads), hub
        self.normalize = True
        self._once = {"image": _Once(), "text": _Once()}

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return self.image.dim

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        return self.image.device

    @property
    def max_length(self) -> int | None:
        """Tokens a text is cut to."""
        return self.text.max_length

    @property
    def prompts(self) -> Prompts:
        """What is put before texts."""
        return self.text.prompts

    @prompts.setter
    def prompts(self, prompts: Prompts) -> None:
        self.text.prompts = prompts

    @property
    def locked(self) -> tuple[str, ...]:
        """The towers of which no weight is trained: `image` (its model; its projection may train), `text`."""
        towers = {"image": self.image.model, "text": self.text}
        return tuple(name for name, tower in towers.items() if not any(p.requires_grad for p in tower.parameters()))

    def prepare(self, items: Sequence[str], role: Role = "document") -> Inputs:
        """Tokens of texts and pixels of pictures; of a locked tower its rows. `BadInput` for what is no text and for a picture that cannot be read."""
        self.prompts.of(role)
        if isinstance(items, str) or not any(isinstance(item, Picture) for item in items):
            return self._texts(items, role)
        at = np.array([isinstance(item, Picture) for item in items])
        pictures, texts = np.flatnonzero(at), np.flatnonzero(~at)
        parts = [(self._pictures([items[int(i)] for i in pictures]), pictures)]
        if len(texts):
            parts.append((self._texts([items[int(i)] for i in texts], role), texts))
        return mix(parts, len(items))

    def _texts(self, items: Sequence[str], role: Role) -> Inputs:
        if "text" not in self.locked or isinstance(items, str):
            return self.text.prepare(items, role)
        keys = [(self.prompts.of(role), item) for item in items]

        def make(numbers: list[int]) -> np.ndarray:
            tokens = self.text.prepare([items[i] for i in numbers], role)
            parts = cut_padded(np.maximum(tokens.lengths, 1), _TOKENS_AT_ONCE)
            return encode_parts(self.text, tokens, parts, self.text.dim)

        return Kept(*self._once["text"].take(keys, make, _version(self.text)), "text")

    def _pictures(self, items: Sequence[str]) -> Inputs:
        if "image" not in self.locked:
            return self.image.prepare(items)
        found = [item for item in items if isinstance(item, Picture)]
        keys = [(str(p), p.file, p.offset, p.size, None if p.data is None else hashlib.sha256(p.data).digest()) for p in found]

        def make(numbers: list[int]) -> np.ndarray:
            parts = [
                read_pixels([found[i] for i in numbers[start : start + _PICTURES_AT_ONCE]], self.image.size)
                for start in range(0, len(numbers), _PICTURES_AT_ONCE)
            ]
            image = self.image
            return np.concatenate(
                [encode_parts(image, part, [np.arange(len(part))], image.width, encode=image.pooled) for part in parts]
            )

        return Kept(*self._once["image"].take(keys, make, _version(self.image.model)), "image")

    def forward(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """Unit rows of prepared items, in their order."""
        return F.normalize(self.rows(inputs), dim=-1)

    def rows(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """The rows before normalization."""
        if isinstance(inputs, Mixed):
            rows = [self.rows(part) for part in inputs.parts]
            starts = np.cumsum([0, *(len(part) for part in inputs.parts)])
            order = torch.from_numpy(starts[inputs.part_of] + inputs.places).to(self.device)
            return torch.cat(rows)[order]
        if isinstance(inputs, Pixels):
            return self.image.headed(self.image.pooled(inputs))
        if isinstance(inputs, Kept):
            kept = torch.from_numpy(inputs.values[inputs.rows]).to(self.device)
            return self.image.headed(kept) if inputs.tower == "image" else self._project(kept)
        assert isinstance(inputs, Tokens)
        return self._project(self.text(inputs))

    def _project(self, rows: Tensor) -> Tensor:
        for dense in self.text_heads:
            rows = dense(rows)
        return rows

    def save(self, folder: Path) -> None:
        """Write a folder (whole or not at all) that `load_encoder` loads to the same vectors.

        A `CLIPModel` or `SiglipModel` is written as transformers writes it, so that it opens there; anything else in a folder of our own:
        `nearfar.json`, `image/`, `text/` (which opens alone), one folder for each dense layer.
        """
        with atomic_folder(folder) as target:
            if self.hub is not None:
                self._save_hub(target, self.hub)
                return
            self.image.write_parts(target)
            assert isinstance(self.text, (StaticEncoder, TransformerEncoder)), "the text tower of a CLIP is saved with it"
            self.text.save(target / "text")
            for number, dense in enumerate(self.text_heads):
                assert isinstance(dense, Dense)
                save_dense(dense, target / f"text_head_{number}")
            told = {"format": FORMAT, "kind": "image-text", "image": self.image.settings(), "text_heads": len(self.text_heads)}
            write_json(target / SETTINGS, told)

    def _save_hub(self, folder: Path, hub: Hub) -> None:
        tensors: dict[str, Tensor] = {"logit_scale": hub.logit_scale} | (
            {} if hub.logit_bias is None else {"logit_bias": hub.logit_bias}
        )
        tensors |= {f"vision_model.{name}": tensor for name, tensor in self.image.model.state_dict().items()}
        assert isinstance(self.text, ClipText)
        tensors |= {f"text_model.{name}": tensor for name, tensor in self.text.model.state_dict().items()}
        for name, heads in (("visual_projection", self.image.heads), ("text_projection", self.text_heads)):
            for dense in heads:
                assert isinstance(dense, Dense)
                assert isinstance(dense.linear, nn.Linear)
                tensors[f"{name}.weight"] = dense.linear.weight
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
        hub.config.save_pretrained(folder)
        self.text.hf_tokenizer.save_pretrained(folder)
        size = self.image.size
        write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "SiglipImageProcessor" if hub.logit_bias is not None else "CLIPImageProcessor",
                "do_resize": True,
                "size": {"height": size, "width": size} if hub.logit_bias is not None else {"shortest_edge": size},
                **(
                    {} if hub.logit_bias is not None else {"do_center_crop": True, "crop_size": {"height": size, "width": size}}
                ),
                "resample": 3,
                "do_normalize": True,
                "image_mean": list(self.image.mean),
                "image_std": list(self.image.std),
            },
        )

    def fingerprint(self) -> str:
        """`sha256:<hex>` of all that decides the vectors: both towers and the projections."""
        from nearfar.encoders.folder import fingerprint_of

        if isinstance(self.text, ClipText):
            text = fingerprint_of(dict(self.text.state_dict()), self.text.tokenizer.to_str(), {"prompts": list(self.prompts)})
        else:
            text = self.text.fingerprint()
        settings = {"kind": "image-text", "image": self.image.fingerprint(), "text": text}
        return fingerprint_of(dict(self.text_heads.state_dict()), "null", settings)


@dataclass
class _Once:
    """Rows by key, each made once while the weights that made them stay as they are."""

    version: Hashable = None
    numbers: dict[Hashable, int] = field(default_factory=dict)
    values: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def take(
        self, keys: Sequence[Hashable], make: Callable[[list[int]], np.ndarray], version: Hashable
    ) -> tuple[np.ndarray, np.ndarray]:
        """(all rows kept, the number of each key's); `make` gives the rows [k, w] of those keys, by place, that are not there yet."""
        if version != self.version:
            self.version, self.numbers, self.values = version, {}, np.zeros((0, 0), np.float32)
        new: dict[Hashable, int] = {}
        for place, key in enumerate(keys):
            if key not in self.numbers and key not in new:
                new[key] = place
        if new:
            made = make(list(new.values()))
            self.numbers |= {key: len(self.values) + number for number, key in enumerate(new)}
            self.values = np.concatenate([self.values, made]) if len(self.values) else made
        return self.values, np.array([self.numbers[key] for key in keys], np.int64)


def _version(module: nn.Module) -> Hashable:
    """What changes when a weight is changed in place or put in another's stead."""
    return tuple((id(p), p._version) for p in module.parameters())


def without_projector(image: ImageEncoder, heads: Sequence[Dense] | None = None) -> ImageEncoder:
    """The same image tower (its weights shared) without a projector, with these dense layers (None: those it has)."""
    kept = [dense for dense in image.heads if isinstance(dense, Dense)] if heads is None else heads
    return ImageEncoder(
        image.model,
        size=image.size,
        mean=image.mean,
        std=image.std,
        pooling=image.pooling,
        normalize=image.normalize,
        cost=image.cost,
        heads=kept,
    ).train(image.training)

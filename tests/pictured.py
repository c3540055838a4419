"""An encoder of tests that knows both kinds: a picture is its mean colour, a text the colour it names."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from nearfar.data.pictures import decode
from nearfar.types import Picture

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}


def png(colour: str, size: int = 8, seed: int | None = None) -> bytes:
    """A PNG of one colour, with a little noise where a seed is given."""
    pixels = np.full((size, size, 3), COLOURS[colour], dtype=np.int64)
    if seed is not None:
        pixels += np.random.default_rng(seed).integers(-40, 41, pixels.shape)
    held = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(held, "PNG")
    return held.getvalue()


class Rows:
    """Prepared items: their rows."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> Rows:
        return Rows(self.rows[torch.as_tensor(rows)])


class ColourEncoder(torch.nn.Module):
    """Unit rows of four numbers: how red, green, blue an item is, and a constant; texts lie `gap` away from pictures along a fifth."""

    dim = 5
    device = torch.device("cpu")

    def __init__(self, gap: float = 0.0, name: str = "colours") -> None:
        super().__init__()
        self.gap, self.name = gap, name
        self.opened: list[str] = []

    def prepare(self, items, role="document") -> Rows:
        return Rows(torch.tensor(np.array([self._row(item) for item in items], dtype=np.float32).reshape(-1, self.dim)))

    def _row(self, item: str) -> list[float]:
        if isinstance(item, Picture):
            self.opened.append(str(item))
            found, kind = decode(item, 8).mean(axis=(0, 1)) / 255, 0.0
        else:
            known = [COLOURS[word] for word in item.lower().split() if word in COLOURS]
            found, kind = (np.mean(known, axis=0) / 255 if known else np.full(3, 0.5)), self.gap
        return [*found.tolist(), 0.5, kind]

    def forward(self, inputs: Rows) -> torch.Tensor:
        return torch.nn.functional.normalize(inputs.rows, dim=1)

    def save(self, folder) -> None:
        raise AssertionError("this encoder is not saved")

    def fingerprint(self) -> str:
        return f"sha256:{self.name}-{self.gap}"

"""Rows outside training: no gradient, no dropout, a part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from nearfar.types import Inputs

if TYPE_CHECKING:
    from jaxtyping import Float


def encode_parts(
    encoder: Any,
    inputs: Inputs,
    parts: Iterable[np.ndarray],
    width: int,
    *,
    encode: Callable[[Any], torch.Tensor] | None = None,
    count: Callable[[int], None] | None = None,
) -> Float[np.ndarray, "n width"]:
    """Rows [n, width] float32 of prepared items, in their order; the encoder's training mode is as before afterwards.

    `parts` are the numbers of the items encoded together, all n of them; `encode` is what is called (default: the encoder itself);
    `count` hears of every part how many items it held.
    """
    rows = np.empty((len(inputs), width), dtype=np.float32)
    module = encoder if isinstance(encoder, nn.Module) else nn.Identity()
    was = module.training
    module.eval()
    try:
        with torch.inference_mode():
            for part in parts:
                rows[part] = (encode or encoder)(inputs.select(part)).float().cpu().numpy()
                if count is not None:
                    count(len(part))
    finally:
        module.train(was)
    return rows

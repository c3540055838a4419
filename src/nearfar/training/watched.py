"""What is watched by its labels while training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labelled:
    """Items and the number of each one's class."""

    items: list[str]
    labels: np.ndarray

"""How many queries it takes to show a difference of a given size.

Webber, Moffat and Zobel 2008, "Statistical power in retrieval experimentation".
"""

from __future__ import annotations

import math
from statistics import NormalDist

from nearfar.errors import BadInput


def queries_needed(
    difference: float, low: float, high: float, queries: int, *, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Queries with which a true mean `difference` would be shown with probability `power`; None where the difference is zero.

    [low, high] is the interval of the difference, at `confidence`, measured on `queries` queries: its width tells the spread of the
    differences query by query, and narrows with the root of their number (normal approximation). Raises `BadInput` for no queries.
    """
    if queries < 1 or high < low:
        raise BadInput(f"{queries} queries and the interval [{low}, {high}]: expected at least one query and low <= high.")
    if difference == 0:
        return None
    normal = NormalDist()
    edge = normal.inv_cdf((1 + confidence) / 2)
    error = (high - low) / (2 * edge)
    return max(1, math.ceil(queries * ((edge + normal.inv_cdf(power)) * error / difference) ** 2))

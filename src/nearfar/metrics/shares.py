"""How sure a share is: Wilson's interval of one proportion, and of a weighted sum of several.

Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference". Of a sum: the square-and-add rule (MOVER) of Zou and Donner
2008, "Construction of confidence limits about effect measures: a general approach", eq. 6, over the strata's Wilson intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nearfar.errors import BadInput
from nearfar.metrics.significance import Interval

Z = 1.959963984540054
"""The normal quantile of 95 %."""


def share_interval(count: int, total: int, *, z: float = Z) -> Interval:
    """The share count / total with its Wilson interval. Of nothing it is 0 in [0, 1]. Raises `BadInput` unless 0 <= count <= total."""
    if not 0 <= count <= total:
        raise BadInput(f"count: expected a number in 0..{total}, found {count}.")
    if total == 0:
        return Interval(0.0, 0.0, 1.0)
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    low = 0.0 if count == 0 else max(0.0, middle - half)
    return Interval(share, low, 1.0 if count == total else min(1.0, middle + half))


def stratified_interval(weights: Sequence[float], counts: Sequence[int], totals: Sequence[int], *, z: float = Z) -> Interval:
    """The share in a population whose strata have these `weights` (they are made to sum to 1), of which `totals` were asked and `counts` said yes.

    A stratum that nobody was asked about counts as one half in [0, 1]. Raises `BadInput` for no stratum or no weight.
    """
    whole = sum(weights)
    if not weights or whole <= 0:
        raise BadInput("weights: expected at least one stratum with a weight above 0.")
    parts = [share_interval(count, total, z=z) for count, total in zip(counts, totals, strict=True)]
    middles = [part.mean if total else 0.5 for part, total in zip(parts, totals, strict=True)]
    shares = [weight / whole for weight in weights]
    mean = sum(w * m for w, m in zip(shares, middles, strict=True))
    below = math.sqrt(sum((w * (m - part.low)) ** 2 for w, m, part in zip(shares, middles, parts, strict=True)))
    above = math.sqrt(sum((w * (part.high - m)) ** 2 for w, m, part in zip(shares, middles, parts, strict=True)))
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above))

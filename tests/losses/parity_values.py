"""Losses here that are classes of open_clip and lightly, which are no test dependencies: by formula and golden value."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from parity import Proof, agree
from peers_st import A, B, D, unit


def golden(n: int, d: int, a: float) -> Tensor:
    i, j = torch.meshgrid(torch.arange(n, dtype=torch.float64), torch.arange(d, dtype=torch.float64), indexing="ij")
    return torch.sin(a + 1.3 * i + 0.7 * j * torch.sqrt(i + 1))


def clip_loops(a: Tensor, b: Tensor) -> Tensor:
    logits, n = [[x @ y / 0.07 for y in b] for x in a], len(a)
    image = [torch.stack(logits[i]).logsumexp(0) - logits[i][i] for i in range(n)]
    text = [torch.stack([logits[k][i] for k in range(n)]).logsumexp(0) - logits[i][i] for i in range(n)]
    return (torch.stack(image).mean() + torch.stack(text).mean()) / 2


def siglip_loops(a: Tensor, b: Tensor) -> Tensor:
    terms = [F.logsigmoid((1 if i == j else -1) * (10 * (x @ y) - 10)) for i, x in enumerate(a) for j, y in enumerate(b)]
    return -torch.stack(terms).sum() / len(a)


def nt_xent_loops(a: Tensor, b: Tensor) -> Tensor:
    z, n = torch.cat([a, b]), len(a)
    each = []
    for i in range(2 * n):
        others = torch.stack([z[i] @ z[k] / 0.5 for k in range(2 * n) if k != i])
        each.append(others.logsumexp(0) - z[i] @ z[(i + n) % (2 * n)] / 0.5)
    return torch.stack(each).mean()


def by_value(peer: str, ours: str, loops: Callable[..., Tensor], value: float, note: str) -> Proof:
    """Of a peer that is no test dependency: equal to its formula as loops, and to the value that it gave."""

    def check() -> None:
        q, p = unit(golden(4, D, 0.1)), unit(golden(4, D, 0.4))
        agree(ours, loops, {"q": q, "p": p})
        agree(ours, loops, {"q": unit(A), "p": unit(B)})
        assert math.isclose(float(loops(q, p)), value, rel_tol=1e-6)

    return Proof(peer, ours, note, check)


PROOFS = [
    by_value(
        "open_clip.ClipLoss",
        "clip(q, p, temperature=0.07).mean()",
        clip_loops,
        0.0001291381,
        "unit rows; logit scale = 1 / temperature",
    ),
    by_value(
        "open_clip.SigLipLoss",
        "siglip(q, p, temperature=0.1, bias=-10.0).mean()",
        siglip_loops,
        0.9635974863,
        "unit rows; logit scale = 1 / temperature; the sum over columns, the mean over rows",
    ),
    by_value(
        "lightly.NTXentLoss",
        "nt_xent(q, p, temperature=0.5).mean()",
        nt_xent_loops,
        0.5166777477,
        "unit rows; the mean over 2b rows",
    ),
]


WITHOUT: dict[str, str] = {}

"""The pieces a packed transformer step is made of, beside torch's own: attention with and without dropout, dropout, weights cast for it, and AdamW.

    python benchmarks/packed.py [--texts 16] [--length 256] [--heads 12] [--width 384] [--rounds 5] [--json]

Each line is both directions of one piece in bfloat16 on the same numbers, the best of the rounds, in milliseconds. Ends with exit 1 where a piece of ours is slower than torch's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nearfar.encoders import Tokens
from nearfar.encoders.packed import _Attention, _Drop, group_texts
from nearfar.encoders.precision import Copies
from nearfar.training.config import OptimizerConfig
from nearfar.training.optimizer import AdamW


def best(call: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the quickest call, the first one apart."""
    call()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return round(1000 * min(took), 2)


def attention(
    texts: int, length: int, heads: int, width: int, rate: float
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Ours and torch's, over equal lengths (torch's best case), from packed queries, keys and values to their gradient."""
    packed = torch.randn(texts * length, 3 * width, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.randn(texts * length, width, dtype=torch.bfloat16)
    tokens = Tokens(np.zeros(texts * length, np.int32), np.arange(texts + 1) * length)
    groups = group_texts(tokens, heads, torch.device("cpu"))

    def ours() -> object:
        return torch.autograd.grad(_Attention.apply(packed, groups, heads, rate, 1), packed, upstream)

    def theirs() -> object:
        q, k, v = packed.view(texts, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).reshape(texts * length, width)
        return torch.autograd.grad(out, packed, upstream)

    return ours, theirs


def dropout(rows: int, width: int) -> tuple[Callable[[], object], Callable[[], object]]:
    x = torch.randn(rows, width, dtype=torch.bfloat16, requires_grad=True)
    up = torch.randn(rows, width, dtype=torch.bfloat16)
    return (
        lambda: torch.autograd.grad(_Drop.apply(x, 0.1, 1), x, up),
        lambda: torch.autograd.grad(F.dropout(x, 0.1, training=True), x, up),
    )


def casting(width: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Weights of six layers for one step of four micro-batches: copied once, or once each (as autocast does)."""
    model = nn.Sequential(*(nn.Linear(width, 12 * width) for _ in range(6)))
    copies = Copies(model, torch.bfloat16, is_training=True)
    return copies.refresh, lambda: [[p.detach().to(torch.bfloat16) for p in model.parameters()] for _ in range(4)]


def optimizer(width: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step over 22 million numbers, the norm and the clipping included, beside torch.optim.AdamW as it comes."""
    shapes = [(30_522, width), *[(12 * width, width)] * 6]
    ours, theirs = ([nn.Parameter(torch.randn(shape)) for shape in shapes] for _ in range(2))
    mine = AdamW({str(i): p for i, p in enumerate(ours)}, OptimizerConfig())
    peer = torch.optim.AdamW(theirs, lr=1e-5)
    gradients = [torch.randn(shape) for shape in shapes]

    def step_ours() -> object:
        for p, g in zip(ours, gradients, strict=True):
            p.grad = g
        return mine.step(1e-5)

    def step_theirs() -> object:
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(theirs, 1.0)
        return peer.step()

    return step_ours, step_theirs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("texts", 16), ("length", 256), ("heads", 12), ("width", 384), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    size = (asked.texts, asked.length, asked.heads, asked.width)
    pieces = {
        "attention": attention(*size, 0.0),
        "attention, dropout 0.1": attention(*size, 0.1),
        "dropout 0.1": dropout(asked.texts * asked.length, asked.width),
        "weights cast, 4 micro-batches": casting(asked.width),
        "AdamW with clipping": optimizer(asked.width),
    }
    lines = {name: (best(ours, asked.rounds), best(theirs, asked.rounds)) for name, (ours, theirs) in pieces.items()}
    if asked.json:
        print(json.dumps({name: {"ours_ms": a, "torch_ms": b} for name, (a, b) in lines.items()}))
    else:
        print(f"{'piece':<30} {'ours ms':>9} {'torch ms':>9} {'ratio':>6}")
        for name, (a, b) in lines.items():
            print(f"{name:<30} {a:>9} {b:>9} {b / a:>6.2f}")
    return 0 if all(a <= b for a, b in lines.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

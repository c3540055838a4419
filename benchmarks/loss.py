"""Speed and memory of InfoNCE forward and backward, beside the bare matrix multiplies it cannot do without and dense torch.

    python benchmarks/loss.py [--n 16384] [--d 384] [--rounds 5] [--json]

The bare rate is that of the three multiplies of one direction (similarities, two gradients: 6 n^2 d operations), slab by slab, measured
in the same rounds. Memory is the growth of the process's high-water mark beyond inputs and gradients, in a fresh process.
Ends with exit 1 where InfoNCE is below 0.8 of the bare rate, or takes 150 MB or more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from nearfar.losses import info_nce
from nearfar.similarity import slab_ranges, slab_rows


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    """Unit rows that ask for gradients."""
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1).requires_grad_()


def three_multiplies(q: torch.Tensor, c: torch.Tensor, out: torch.Tensor) -> None:
    """The multiplies alone: a slab of similarities, then both products with it."""
    grad_q, grad_c = torch.empty_like(q), torch.zeros_like(c)
    for start, stop in slab_ranges(len(q), len(out)):
        slab = out[: stop - start]
        torch.mm(q[start:stop], c.T, out=slab)
        torch.mm(slab, c, out=grad_q[start:stop])
        grad_c.addmm_(slab.T, q[start:stop])


def forward_backward(q: torch.Tensor, c: torch.Tensor) -> None:
    q.grad = c.grad = None
    info_nce(q, c, temperature=0.05).mean().backward()


def dense(q: torch.Tensor, c: torch.Tensor) -> None:
    q.grad = c.grad = None
    F.cross_entropy(q @ c.T / 0.05, torch.arange(len(q))).backward()


def seconds(call: object, *args: torch.Tensor) -> float:
    began = time.perf_counter()
    call(*args)  # pyright: ignore
    return time.perf_counter() - began


def high_water() -> int:
    """The most memory this process ever had, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def measure_memory(n: int, d: int) -> None:
    """Print the growth of the high-water mark beyond inputs and gradients. Run in a process of its own."""
    q, c = rows(n, d, 0), rows(n, d, 1)
    small = rows(256, d, 2), rows(256, d, 3)
    forward_backward(*small)  # what torch itself loads on first use is no cost of this size
    before = high_water()
    forward_backward(q, c)
    gradients = 2 * n * d * 4
    print(high_water() - before - gradients)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16384)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        measure_memory(asked.n, asked.d)
        return 0
    n, d = asked.n, asked.d
    q, c = rows(n, d, 0), rows(n, d, 1)
    plain_q, plain_c = q.detach(), c.detach()
    buffer = torch.empty(slab_rows(n), n)
    fits = 3 * n * n * 4 < 6e9
    times: dict[str, list[float]] = {"bare": [], "info_nce": [], "dense": []}
    forward_backward(q, c)
    for _ in range(asked.rounds):
        times["bare"].append(seconds(three_multiplies, plain_q, plain_c, buffer))
        times["info_nce"].append(seconds(forward_backward, q, c))
        if fits:
            times["dense"].append(seconds(dense, q, c))
    memory = int(
        subprocess.run(
            [sys.executable, __file__, "--memory", "--n", str(n), "--d", str(d)], check=True, capture_output=True, text=True
        ).stdout
    )
    operations = 6 * n * n * d
    best = {name: min(found) for name, found in times.items() if found}
    # noise only ever adds: the ratio of the same round cancels what slows both
    ratios = sorted(bare / ours for bare, ours in zip(times["bare"], times["info_nce"], strict=True))
    result = {
        "n": n,
        "d": d,
        "threads": torch.get_num_threads(),
        "gflops": {name: round(operations / found / 1e9, 1) for name, found in best.items()},
        "seconds": {name: round(found, 3) for name, found in best.items()},
        "of_bare_best": round(best["bare"] / best["info_nce"], 3),
        "of_bare_median_round": round(ratios[len(ratios) // 2], 3),
        "megabytes_beyond_inputs_and_gradients": round(memory / 1e6, 1),
    }
    holds = result["of_bare_best"] >= 0.8 and memory < 150e6
    if asked.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>40}  {value}")
        print("holds: at least 0.8 of the bare rate, under 150 MB" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

"""Time, memory and share of the matrix multiply of losses over slabs, beside dense torch and sentence-transformers' cached loss.

    python benchmarks/loss.py [--n 1024,4096,16384,65536] [--d 256,384,768] [--rounds 3] [--quick] [--json]

Each line is one step (forward and backward of the mean) over n pairs of d numbers. `limit` is the share of the rate of the bare multiplies that
the loss cannot do without (three for one direction, four for two) by `torch.mm`, the best of several slab heights, measured in the same round in the same precision; it is above 1 where
oneDNN multiplies float32 faster than `torch.mm` does.
Memory is the growth of a fresh process's high-water mark beyond inputs and gradients. The cached loss is driven on the same rows, its encoder a
table that gives them: what is left is the loss. It fills the similarity matrix by `mini_batch_size` rows (its default, 32).

Ends with exit 1 where a bar fails: at n = 16,384, d = 384 float32 at least 0.85 of the limit and 1.6 times dense; bfloat16 at least 1.6 times float32 where the
processor multiplies it; both directions at least 0.8 of their limit; the triplet and SupCon losses, and InfoNCE at n = 65,536, under 300 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from nearfar import losses
from nearfar.similarity import slab_ranges

Step = Callable[[Tensor, Tensor], Tensor]
TEMPERATURE = 0.05


def rows(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Unit rows, each pair alike (cosine about 0.7), that ask for gradients."""
    a, b = (torch.randn(n, d, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    a = F.normalize(a, dim=1)
    return a.requires_grad_(), F.normalize(a.detach() + F.normalize(b, dim=1), dim=1).requires_grad_()


def labels(n: int) -> Tensor:
    return torch.arange(n) // 4


def dense(q: Tensor, c: Tensor) -> Tensor:
    return F.cross_entropy(q @ c.T / TEMPERATURE, torch.arange(len(q)))


def dense_both(q: Tensor, c: Tensor) -> Tensor:
    logits, own = q @ c.T / TEMPERATURE, torch.arange(len(q))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def autocast_dense(q: Tensor, c: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return dense(q, c)


def info_nce(precision: str) -> Step:
    return lambda q, c: losses.info_nce(q, c, temperature=TEMPERATURE, precision=precision).mean()  # pyright: ignore


def clip(precision: str) -> Step:
    return lambda q, c: losses.clip(q, c, temperature=TEMPERATURE, precision=precision).mean()  # pyright: ignore


STEPS: dict[str, Step] = {
    "info_nce float32": info_nce("float32"),
    "info_nce bfloat16": info_nce("bfloat16"),
    "clip float32": clip("float32"),
    "clip bfloat16": clip("bfloat16"),
    "dense float32": dense,
    "dense autocast": autocast_dense,
    "dense both float32": dense_both,
    "sup_con float32": lambda q, c: losses.sup_con(q, labels(len(q)), temperature=0.1).mean() + 0 * c.sum(),
    "triplet float32": lambda q, c: losses.batch_triplet(q, labels(len(q)), margin=0.3, mining="hardest").mean() + 0 * c.sum(),
    "matryoshka float32": lambda q, c: losses.matryoshka_info_nce(
        q, c, dims=nested(q.shape[1]), temperature=TEMPERATURE
    ).mean(),
    "matryoshka one each": lambda q, c: losses.matryoshka(
        lambda a, b, t: losses.info_nce(a, b, t, temperature=TEMPERATURE), nested(q.shape[1])
    )(q, c).mean(),
}


def nested(d: int) -> list[int]:
    return [d, d // 2, d // 4, d // 8]


def cached_peer() -> Callable[[Tensor, Tensor], None] | None:
    """A step of sentence-transformers' CachedMultipleNegativesRankingLoss over given rows, or None where it is not installed."""
    with suppress(ImportError):
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        loss = CachedMultipleNegativesRankingLoss(torch.nn.Sequential(torch.nn.Identity()), scale=1 / TEMPERATURE)  # pyright: ignore

        def step(q: Tensor, c: Tensor) -> None:
            leaves = [[part.detach().requires_grad_() for part in side.split(loss.mini_batch_size)] for side in (q, c)]
            loss.calculate_loss(leaves, with_backward=True)
            for side, parts in zip((q, c), leaves, strict=True):
                side.grad = torch.cat([part.grad for part in parts if part.grad is not None])

        return step
    return None


def run(step: Step, q: Tensor, c: Tensor) -> None:
    q.grad = c.grad = None
    step(q, c).backward()


def multiplies(q: Tensor, c: Tensor, count: int, height: int) -> None:
    """`count` multiplies alone (3, or 4 with the similarities twice), a slab of `height` rows at a time."""
    out, grad_q, grad_c = q.new_empty(height, len(c)), torch.empty_like(q), torch.zeros(c.shape, dtype=q.dtype)
    for start, stop in slab_ranges(len(q), height):
        slab = out[: stop - start]
        for _ in range(count - 2):
            torch.mm(q[start:stop], c.T, out=slab)
        torch.mm(slab, c, out=grad_q[start:stop])
        torch.mm(slab.T, q[start:stop], out=grad_c)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def limit(q: Tensor, c: Tensor, dtype: torch.dtype, count: int) -> float:
    """Seconds of the multiplies alone: the best of several slab heights. Of many rows 8,192 are measured and scaled: slabs of rows add up."""
    part = min(len(q), 8192)
    a, b = q[:part].detach().to(dtype), c.detach().to(dtype)
    heights = [h for h in (256, 512, 1024) if h <= part and h * len(c) <= 2**25]
    return min(seconds(lambda h=h: multiplies(a, b, count, h)) for h in heights) * len(q) / part


def high_water() -> int:
    """The most memory this process ever had, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def measure_alone(name: str, n: int, d: int) -> tuple[int, float]:
    """Growth of the high-water mark beyond inputs and gradients in bytes, and seconds, of one step. Run in a process of its own."""
    peer = cached_peer() if name == "cached peer" else None
    step = peer if peer is not None else lambda q, c: run(STEPS[name], q, c)
    q, c = rows(n, d)
    step(*rows(64, d))  # what torch itself loads on first use is no cost of this size
    before = high_water()
    took = seconds(lambda: step(q, c))
    return high_water() - before - 2 * n * d * 4, took


def alone(name: str, n: int, d: int) -> tuple[float, float]:
    """Megabytes and seconds of one step in a fresh process."""
    asked = [sys.executable, __file__, "--alone", name, "--n", str(n), "--d", str(d)]
    grown, took = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return round(int(grown) / 1e6, 1), float(took)


def names(n: int, quick: bool) -> list[str]:
    chosen = [name for name in STEPS if "dense" not in name or n <= 16384]
    if quick or n > 16384:
        chosen = [name for name in chosen if name.startswith(("info_nce", "clip", "dense"))]
    return chosen


def measure(n: int, d: int, rounds: int, quick: bool) -> list[dict[str, object]]:
    """All lines of one size; every round runs everything once, so that what slows one slows all. Large sizes run once, in the fresh process."""
    q, c = rows(n, d)
    is_large = n > 16384
    memory = {}
    peer = None if is_large or quick else cached_peer()
    limits = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    times: dict[str, list[float]] = {}
    for name in [] if is_large else names(n, quick):
        run(STEPS[name], q, c)  # the first step of a size pays for fresh memory
    for _ in range(rounds):
        for precision, dtype in limits.items():
            for count in (3, 4):
                times.setdefault(f"limit {count} {precision}", []).append(limit(q, c, dtype, count))
        for name in names(n, quick):
            if is_large:
                memory[name], took = alone(name, n, d)
            else:
                took = seconds(lambda name=name: run(STEPS[name], q, c))
            times.setdefault(name, []).append(took)
        if peer is not None:
            times.setdefault("cached peer", []).append(seconds(lambda: peer(q, c)))
    lines = []
    for name in [name for name in times if not name.startswith("limit")]:
        count = 4 if name.startswith(("clip", "dense both")) else 3
        precision = "bfloat16" if name.endswith(("bfloat16", "autocast")) else "float32"
        bare = times[f"limit {count} {precision}"]
        share = statistics.median(b / mine for b, mine in zip(bare, times[name], strict=True))
        slow = statistics.median(mine / ours for mine, ours in zip(times[name], times["info_nce float32"], strict=True))
        lines.append(
            {
                "n": n,
                "d": d,
                "what": name,
                "seconds": round(min(times[name]), 3),
                "of_limit": round(share, 3),
                "times_info_nce_float32": round(slow, 2),
                "megabytes": memory[name] if name in memory else alone(name, n, d)[0],
            }
        )
    return lines


def verdicts(lines: list[dict[str, object]]) -> list[tuple[bool, str]]:
    """Each bar that these lines can judge."""
    by = {(line["n"], line["d"], line["what"]): line for line in lines}
    found = []

    def bar(size: tuple[int, int], what: str, field: str, holds: Callable[[float], bool], says: str) -> None:
        line = by.get((*size, what))
        if line is not None:
            value = float(line[field])  # pyright: ignore
            found.append((holds(value), f"n = {size[0]:,}, d = {size[1]}: {what} {says} ({value})"))

    size = (16384, 384)
    bar(size, "info_nce float32", "of_limit", lambda x: x >= 0.85, "at least 0.85 of the limit")
    bar(
        size,
        "dense float32",
        "times_info_nce_float32",
        lambda x: x >= 1.6,
        "takes at least 1.6 times as long as info_nce float32",
    )
    if has_bfloat16():
        bar(
            size,
            "info_nce bfloat16",
            "times_info_nce_float32",
            lambda x: x <= 1 / 1.6,
            "takes at most 1 / 1.6 of info_nce float32",
        )
    bar(size, "clip float32", "of_limit", lambda x: x >= 0.8, "at least 0.8 of its limit of four multiplies")
    for what in ("sup_con float32", "triplet float32"):
        bar(size, what, "megabytes", lambda x: x < 300, "under 300 MB")
    for what in ("info_nce float32", "info_nce bfloat16"):
        bar((65536, 384), what, "megabytes", lambda x: x < 300, "under 300 MB")
    return found


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as facts:
        text = facts.read()
    return "avx512_bf16" in text or "amx_bf16" in text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", default="1024,4096,16384,65536")
    parser.add_argument("--d", default="256,384,768")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="InfoNCE, CLIP and dense torch alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sizes, widths = ([int(x) for x in text.split(",")] for text in (asked.n, asked.d))
    if asked.alone:
        print(*measure_alone(asked.alone, sizes[0], widths[0]))
        return 0
    lines: list[dict[str, object]] = []
    if not asked.json:
        print(f"{torch.get_num_threads()} threads, bfloat16 multiplied by the processor: {has_bfloat16()}")
        print(f"{'n':>6} {'d':>4}  {'what':<20} {'seconds':>8} {'of limit':>9} {'x info_nce f32':>15} {'MB':>8}")
    for n in sizes:
        for d in widths:
            for line in measure(n, d, 1 if n > 16384 else asked.rounds, asked.quick):
                lines.append(line)
                if not asked.json:
                    n_, d_, what, took, share, slow, mb = line.values()
                    print(f"{n_:>6} {d_:>4}  {what:<20} {took:>8} {share:>9} {slow:>15} {mb:>8}", flush=True)
    bars = verdicts(lines)
    if asked.json:
        print(json.dumps({"lines": lines, "bars": [{"holds": holds, "bar": says} for holds, says in bars]}))
    else:
        for holds, says in bars:
            print("holds " if holds else "FAILS ", says)
    return 0 if all(holds for holds, _ in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

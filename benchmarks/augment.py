"""Augmented pictures a second, ours beside kornia's: SimCLR's views at 32 pixels (CIFAR-10's, without blur) and at 224 (ImageNet's, with blur).

    python benchmarks/augment.py [--sizes 32 224] [--numbers 3000000] [--rounds 5] [--json]

Both get the same uint8 pictures and give float32 in 0..1 by the same operations with the same parameters: bicubic crops, flips, colour jitter, grey, blur.
Kornia applies one order of the colour changes to a whole batch, ours one a picture, as the paper does. Rounds take turns; the best of each counts. Ends with exit 1 where
ours makes fewer pictures a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable

import torch

from nearfar.data.augment import Augmentation, views


def kornia_views(told: Augmentation) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same augmentation by kornia's modules, one after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kornia.augmentation as K

    steps = [
        K.RandomResizedCrop(
            (told.size, told.size), told.area, told.ratio, resample="BICUBIC", align_corners=False, cropping_mode="slice"
        ),
        K.RandomHorizontalFlip(told.flip),
        K.ColorJitter(told.brightness, told.contrast, told.saturation, told.hue, p=told.jitter),
        K.RandomGrayscale(p=told.grey),
    ]
    if told.blur:
        taps = told.size // 10 // 2 * 2 + 1
        steps.append(K.RandomGaussianBlur((taps, taps), told.sigma, p=told.blur))
    together = torch.nn.Sequential(*steps)
    return lambda pixels: together(pixels.float().mul_(1 / 255))


def measure(calls: dict[str, Callable[[torch.Tensor], torch.Tensor]], pixels: torch.Tensor, rounds: int) -> dict[str, float]:
    """Pictures a second of the best round of each, after one that warms up."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            found = call(pixels)
            took = time.perf_counter() - began
            assert found.shape == pixels.shape, f"{name} made {list(found.shape)}"
            if turn:
                best[name] = min(best[name], took)
    return {name: len(pixels) / took for name, took in best.items()}


def main() -> int:
    """Measure each size, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument(
        "--numbers", type=int, default=3_000_000, help="numbers of a batch: what decides how many pictures it has"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    lines = []
    for size in given.sizes:
        told = Augmentation.cifar(size) if size < 64 else Augmentation.simclr(size)
        n = max(8, given.numbers // (3 * size * size))
        pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        ours = torch.Generator().manual_seed(1)
        calls = {"nearfar": lambda x, told=told, ours=ours: views(x, told, ours), "kornia": kornia_views(told)}
        with torch.no_grad():
            rates = measure(calls, pixels, given.rounds)
        lines.append({"size": size, "pictures": n, **{k: round(v) for k, v in rates.items()}})
        lines[-1]["ratio"] = round(rates["nearfar"] / rates["kornia"], 2)
    if given.json:
        print(json.dumps(lines))
    else:
        print(f"{'pixels':>6} {'batch':>6} {'nearfar/s':>10} {'kornia/s':>10} {'ratio':>6}")
        for line in lines:
            print(f"{line['size']:>6} {line['pictures']:>6} {line['nearfar']:>10,} {line['kornia']:>10,} {line['ratio']:>6}")
    return 0 if all(line["ratio"] >= 1 for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())

"""An exact step at the papers' batch sizes on a small machine: CLIP at 8,192 pairs, SimCLR at 4,096 pictures (8,192 views), and the memory it takes.

    python benchmarks/paper_batches.py [--clip 8192] [--simclr 4096] [--size 32] [--text static|minilm] [--gigabytes 12] [--json]

Each step runs in a process of its own: one step of the ordinary trainer on random pictures (and captions), its highest resident memory as the system counts it. That a step in parts is
the step of the whole batch is checked beside it, at 96 pairs of the same encoder, in every gradient (float32; without views, which another cut of the batch draws anew). Fails where a step takes more memory than asked, or
a gradient differs by more than 1e-3 of its length.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nearfar import losses
from nearfar.encoders import AnyEncoder, Pixels, adapt, grow, image_of, load_encoder
from nearfar.encoders.pixels import join
from nearfar.training import parse_settings, train
from nearfar.training.caching import Side, accumulate
from nearfar.types import Pair, Picture

WORDS = [
    "red",
    "blue",
    "small",
    "large",
    "dog",
    "cat",
    "car",
    "house",
    "tree",
    "bird",
    "on",
    "under",
    "near",
    "a",
    "the",
    "two",
    "three",
    "old",
    "new",
]
SETTINGS = {
    "simclr": ("loss.name=nt_xent", "augment.kind=cifar", "model.projector=simclr", "temperature=0.5"),
    "clip": ("loss.name=clip", "augment.kind=light", "learn_temperature=true", "temperature=0.07"),
}


def pairs_of(kind: str, count: int, size: int) -> list[Pair]:
    """Random pictures as bitmaps, with themselves or with captions of ten words."""
    rng = np.random.default_rng(0)
    found: list[Pair] = []
    for number in range(count):
        head = f"P6 {size} {size} 255\n".encode()
        buffer = io.BytesIO(head + rng.integers(0, 256, size * size * 3, dtype=np.uint8).tobytes())
        picture = Picture(f"picture {number}", data=buffer.getvalue())
        words = " ".join(rng.choice(WORDS, 10)) + f" {number}"
        found.append(Pair(words if kind == "clip" else picture, picture))
    return found


def name_of(kind: str, size: int, text: str) -> str:
    """The encoder, as a user names it."""
    return f"clip:small-image:{size}+{text}" if kind == "clip" else f"small-image:{size}"


def one_step(kind: str, count: int, size: int, text: str) -> dict[str, float]:
    """One step of the trainer: seconds, loss, and the process's highest memory in gigabytes."""
    own = [
        "epochs=1",
        f"batch_size={count}",
        "evaluation.dev=0",
        "evaluation.judge=0",
        "evaluation.outside_texts=0",
        "warmup=0",
    ]
    pairs = pairs_of(kind, count, size)
    with tempfile.TemporaryDirectory() as out:
        config = parse_settings([*own, *SETTINGS[kind]])
        result = train(pairs, out=Path(out) / "run", encoder=name_of(kind, size, text), config=config)
        told = json.loads((Path(out) / "run" / "steps.jsonl").read_text().splitlines()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"pairs": told["pairs"], "steps": result.steps, "seconds": result.seconds, "loss": told["loss"], "gigabytes": peak}


def difference(kind: str, size: int, text: str, count: int = 96) -> float:
    """The largest difference of a gradient, as a share of its length, between a step in parts (nothing kept) and one graph over the same views."""
    encoder: AnyEncoder = load_encoder(name_of(kind, size, text))
    if kind == "simclr":
        encoder = grow(encoder, projector="simclr")
    encoder = adapt(encoder, augment="none", dropout=0.0 if text == "minilm" and kind == "clip" else None).train()
    pairs = pairs_of(kind, count, size)
    queries = encoder.prepare([pair.query for pair in pairs], "query")
    documents = encoder.prepare([pair.positive for pair in pairs])
    kinds, order = join([queries, documents])
    places = torch.from_numpy(order)

    def loss(sides: Sequence[Tensor]) -> Tensor:
        rows = torch.cat(list(sides))[places]
        one, other = rows[:count], rows[count:]
        return (losses.clip if kind == "clip" else losses.nt_xent)(one, other, temperature=0.5).mean()

    width = encoder.training_dim if kind == "simclr" else encoder.dim  # pyright: ignore[reportAttributeAccessIssue]
    image = image_of(encoder)
    assert image is not None
    micro = 8 * image.cost
    accumulate([Side(encoder, part, width) for part in kinds], loss, seed=0, keep_bytes=0, micro_tokens=micro)
    found = {name: p.grad.to_dense() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    loss([encoder(part) for part in kinds]).backward()
    whole = {name: p.grad.to_dense() for name, p in encoder.named_parameters() if p.grad is not None}
    assert found.keys() == whole.keys()
    assert any(isinstance(part, Pixels) for part in kinds)
    return max(float((found[name] - whole[name]).norm() / (whole[name].norm() + 1e-12)) for name in whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=int, default=8192)
    parser.add_argument("--simclr", type=int, default=4096)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--text", default="static")
    parser.add_argument("--gigabytes", type=float, default=12.0)
    parser.add_argument("--one", choices=sorted(SETTINGS), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_step(args.one, getattr(args, args.one), args.size, args.text)))
        return 0
    found: dict[str, dict[str, float]] = {}
    for kind in ("simclr", "clip"):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", kind], capture_output=True, text=True, check=True
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1]) | {"difference": difference(kind, args.size, args.text)}
        if not args.json:
            told = found[kind]
            print(
                f"{kind}: one step of {told['pairs']:,} pairs in {told['seconds']:.1f} s, {told['gigabytes']:.2f} GB at most, loss {told['loss']:.4f}; "
                f"in parts against whole at 96 pairs: {told['difference']:.1e} ({time.perf_counter() - began:.0f} s in all)",
                flush=True,
            )
    if args.json:
        print(json.dumps(found, indent=1))
    return 0 if all(told["gigabytes"] <= args.gigabytes and told["difference"] < 1e-3 for told in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""SimCLR on unlabelled pictures, judged by the classes of nearest neighbours: beside raw pixels, the untrained network, and SupCon, which sees the labels.

    python benchmarks/simclr.py FOLDER [--seeds 3] [--pictures 20000] [--epochs 8] [--set NAME=VALUE] [--json]

FOLDER has `train.parquet` and `test.parquet` with columns `image` (encoded bytes) and `label`, as ../shared/data/cifar10. A picture is right where the vote of its 20 (or 200; of raw pixels 20 alone, 3,072 numbers each)
nearest training pictures tells its class (Wu 2018). Pixels are compared as they are, and (a stronger baseline, shown beside) less the mean picture; `--linear` adds a logistic regression. Each figure is the mean over seeds and test pictures, each difference the paired one over test pictures (of the means over
seeds) with its 95 % interval. Fails where SimCLR is not 8 points above raw pixels and above the untrained network (means), SupCon is not above SimCLR (by the interval), or all of it takes 20 minutes or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from nearfar.embedding import embed
from nearfar.encoders import AnyEncoder, load_encoder
from nearfar.encoders.pixels import read_pixels
from nearfar.evaluation import knn_accuracy, linear_probe
from nearfar.metrics.significance import bootstrap_interval
from nearfar.training import parse_settings, train
from nearfar.types import Pair, Picture

SETTINGS = (
    "batch_size=256",
    "augment.kind=cifar",
    "optimizer.schedule=cosine",
    "evaluation.outside_texts=0",
    "evaluation.dev=0",
    "evaluation.judge=0",
    "learning_rate=0.001",
    "optimizer.weight_decay=0.0001",
)
PIXELS = ("pixels", "centred")
MOST_SECONDS = 20 * 60
LOSSES = {
    "simclr": ("loss.name=nt_xent", "temperature=0.2", "model.projector=simclr"),
    # labels keep nothing out of the rows that neighbours want: with a projector SupCon was 6 points lower after 8 epochs
    "supcon": ("loss.name=sup_con", "temperature=0.1"),
}


def read(path: Path, count: int | None, name: str) -> tuple[list[Picture], np.ndarray]:
    """The first `count` pictures and their labels."""
    table = parquet.read_table(path, columns=["image", "label"])
    rows = table.slice(0, count).to_pydict() if count is not None else table.to_pydict()
    cells = [cell["bytes"] if isinstance(cell, dict) else cell for cell in rows["image"]]
    labels = np.unique(np.array(rows["label"]), return_inverse=True)[1]  # every class is on both sides
    return [Picture(f"{name}/{i}", data=cell) for i, cell in enumerate(cells)], labels.astype(np.int64)


class Judge:
    """Training and test pictures with their labels, and what a set of rows of both scores."""

    def __init__(self, folder: Path, count: int | None, *, linear: bool = False) -> None:
        self.linear = linear
        self.known, self.labels = read(folder / "train.parquet", count, "train")
        self.asked, self.answers = read(folder / "test.parquet", None, "test")

    def encoder(self, model: AnyEncoder) -> dict[str, np.ndarray]:
        """Right or wrong for each test picture, by rows of an encoder."""
        return self.rows(embed(model, self.asked), embed(model, self.known))

    def rows(self, asked: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
        """Right or wrong for each test picture, by neighbours and by a linear layer."""
        found = {
            f"knn {k}": knn_accuracy(asked, self.answers, known, self.labels, k=k)
            for k in ((20, 200) if asked.shape[1] < 1000 else (20,))
        }
        is_asked = self.linear and asked.shape[1] < 1000
        return found | ({"linear": linear_probe(asked, self.answers, known, self.labels)} if is_asked else {})

    def pixels(self, *, centred: bool) -> dict[str, np.ndarray]:
        """By the pictures themselves, as they are or less the mean picture."""
        both = [read_pixels(items, 32) for items in (self.asked, self.known)]
        sides = [found.values[found.rows].reshape(len(found), -1).astype(np.float32) for found in both]
        mean = sides[1].mean(axis=0) if centred else np.float32(0)
        asked, known = ((side - mean) / np.linalg.norm(side - mean, axis=1, keepdims=True) for side in sides)
        return self.rows(asked, known)


def trained(judge: Judge, kind: str, settings: Sequence[str], seed: int) -> AnyEncoder:
    """A small network from nothing, trained on the pictures alone (simclr) or with their labels (supcon)."""
    labels = [str(label) for label in judge.labels] if kind == "supcon" else [None] * len(judge.known)
    pairs = [Pair(picture, picture, group=group) for picture, group in zip(judge.known, labels, strict=True)]
    config = parse_settings([*SETTINGS, *LOSSES[kind], *settings, f"seed={seed}"])
    with tempfile.TemporaryDirectory() as out:
        train(pairs, out=Path(out) / "run", encoder="small-image:32", config=config)
        return load_encoder(Path(out) / "run")


def report(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    """Means with intervals, and differences to SimCLR, by metric."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, metrics in scores.items():
        found[name] = {metric: list(bootstrap_interval(values)) for metric, values in metrics.items()}
    if "simclr" in scores:
        for name in [name for name in scores if name != "simclr"]:
            pairs = [(m, scores["simclr"][m], scores[name][m]) for m in scores["simclr"] if m in scores[name]]
            found[f"simclr - {name}"] = {metric: list(bootstrap_interval(ours - theirs)) for metric, ours, theirs in pairs}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--kinds", default="pixels,centred,untrained,simclr,supcon")
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    began, judge = time.perf_counter(), Judge(args.folder, args.pictures, linear=args.linear)
    settings, kinds = [f"epochs={args.epochs}", *args.settings], args.kinds.split(",")
    runs = {kind: [judge.pixels(centred=kind == "centred")] for kind in PIXELS if kind in kinds}
    for seed in range(args.seeds):
        for kind in [kind for kind in kinds if kind not in PIXELS]:
            start = time.perf_counter()
            fresh = kind == "untrained"
            model = load_encoder("small-image:32", seed=seed) if fresh else trained(judge, kind, settings, seed)
            runs.setdefault(kind, []).append(judge.encoder(model))
            told = " ".join(f"{metric} {values.mean():.3f}" for metric, values in runs[kind][-1].items())
            print(f"seed {seed} {kind}: {told} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    scores = {kind: {m: np.mean([run[m] for run in those], axis=0) for m in those[0]} for kind, those in runs.items()}
    seconds = time.perf_counter() - began
    found = report(scores) | {"seconds": {"all": [seconds]}}
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        for name, metrics in found.items():
            told = [f"{m} {v[0]:+.3f}" + (f" [{v[1]:+.3f}, {v[2]:+.3f}]" if len(v) == 3 else "") for m, v in metrics.items()]
            print(f"{name:20} {'  '.join(told)}")
    if not {"pixels", "untrained", "simclr", "supcon"} <= set(kinds):
        return 0
    above = all(found[f"simclr - {name}"]["knn 20"][0] >= 0.08 for name in ("pixels", "untrained"))
    return 0 if above and found["simclr - supcon"]["knn 20"][2] < 0 and seconds < MOST_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())

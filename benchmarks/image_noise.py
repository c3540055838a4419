"""Shuffled captions: how many the audit says there are, and how much of the lost recall comes back where they are left out.

    python benchmarks/image_noise.py [--shares 0.2 0.4] [--encoder clip:small-image:32+static] [--teller clip:small-image:32+minilm] [--pairs N] [--set NAME=VALUE ...] [--seed 0] [--seeds 3] [--json OUT]

OpenMoji's and Tabler's pictures with their names (`nearfar demo images`), the concepts that judge held out. Of the pairs that train, the pictures of a share are exchanged among each other. They
are ranked by models trained on them briefly, of which another tenth was exchanged on purpose; the share is estimated from both. Then the pairs are ranked again by models that did not learn from so many of the lowest (`rank_again`), with MiniLM as their text tower, which knows words and, locked, learns no caption by heart. The lowest are left out.
Models are trained on all, on what is left, and on pairs without a fault, each by three seeds; none takes more steps than the others: of fewer pairs it sees each more often. Recall@10 is text to picture on the held-out concepts. Ends with exit 1
where an estimate is more than 5 points off, or less than half of the lost recall comes back.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.auditing import material_of
from nearfar.auditing.controls import by_controls, rank_again, worst
from nearfar.cli.demo_pictures import EPOCHS, SETTINGS, TEXTS
from nearfar.data.sources.named_pictures import NamedPictures, read_named_pictures
from nearfar.encoders import load_encoder
from nearfar.evaluation import evaluate_image_text
from nearfar.files import cache_folder
from nearfar.training import parse_settings, train
from nearfar.types import Encoder, Pair, Task

BRIEF, TELLING, ROUNDS = 4, 3, 2
"""Epochs of all pairs that the models take which tell, how many of them tell the share, each by another seed (what each is unsure of is averaged away), and the rounds of ranking again."""
APART, BACK = 0.05, 0.5
"""The most that an estimate may be off, and the least share of the lost recall that must come back."""


def shuffle(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], np.ndarray]:
    """The pairs with the positives of this share exchanged among each other, none left with its own; and which pairs."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(pairs), round(share * len(pairs)), replace=False)
    own = np.array([str(pairs[row].positive) for row in wrong])
    place = rng.permutation(len(wrong))
    while len(same := np.flatnonzero(own[place] == own)):  # each of them changes places with any other
        for one, other in zip(same.tolist(), rng.integers(len(wrong), size=len(same)).tolist(), strict=True):
            place[[one, other]] = place[[other, one]]
    found = list(pairs)
    for row, other in zip(wrong.tolist(), wrong[place].tolist(), strict=True):
        found[row] = replace(pairs[row], positive=pairs[other].positive)
    return found, np.sort(wrong)


class Runs:
    """Models trained in one way."""

    def __init__(
        self,
        data: NamedPictures,
        encoder: str,
        settings: Sequence[str],
        *,
        teller: str,
        count: int,
        seed: int = 0,
        seeds: int = 3,
    ) -> None:
        self.data, self.encoder, self.settings, self.teller = data, encoder, settings, teller
        self.count, self.seed, self.seeds = count, seed, seeds
        self.asked = 0

    def fit(self, pairs: Sequence[Pair], seed: int) -> Encoder:
        """A model of these pairs, its checkpoint chosen by the concepts that choose; as many steps as all pairs take, or fewer."""
        epochs = int(EPOCHS * self.count / len(pairs))
        return self._fit(self.encoder, pairs, seed, f"epochs={epochs}", dev=self.data.dev, task=self.data.task)

    def fit_briefly(self, pairs: Sequence[Pair]) -> Encoder:
        """A model of these pairs that does not know them by heart yet, and asks no judge; the next by another seed."""
        return self._briefly(self.encoder, pairs)

    def fit_teller(self, pairs: Sequence[Pair]) -> Encoder:
        """Likewise, of the towers that tell which pairs are mismatched."""
        return self._briefly(self.teller, pairs)

    def _briefly(self, encoder: str, pairs: Sequence[Pair]) -> Encoder:
        self.asked += 1
        return self._fit(
            encoder, pairs, self.seed + self.asked, f"epochs={int(BRIEF * self.count / len(pairs))}", "evaluation.judge=0"
        )

    def _fit(
        self, encoder: str, pairs: Sequence[Pair], seed: int, *more: str, dev: Task | None = None, task: Task | None = None
    ) -> Encoder:
        text = TEXTS["minilm" if encoder.endswith("minilm") else "static"]
        with tempfile.TemporaryDirectory() as folder:
            config = parse_settings([*SETTINGS, *text, *self.settings, f"seed={seed}", *more])
            start = load_encoder(encoder, seed=seed)
            train(pairs, out=Path(folder) / "run", encoder=start, config=config, dev=dev, task=task)
            return load_encoder(Path(folder) / "run")

    def recall(self, pairs: Sequence[Pair]) -> list[float]:
        """Recall@10 of models of these pairs, one by each seed, text to picture, on the concepts that judge."""
        found = []
        for seed in range(self.seed, self.seed + self.seeds):
            judged = evaluate_image_text(self.fit(pairs, seed), self.data.task)
            found.append(float(judged.text_to_image.evaluation.metrics["success@10"].mean()))
        return found


def judge(runs: Runs, pairs: Sequence[Pair], share: float, clean: list[float]) -> dict[str, Any]:
    """One share: what is said, what is left out, and what that brings."""
    began = time.perf_counter()
    spoiled, wrong = shuffle(pairs, share, runs.seed)
    material = material_of(spoiled, seed=runs.seed)
    rows, ranks, told = by_controls(material, runs.fit_briefly, runs=TELLING)
    rows, ranks = rank_again(material, runs.fit_teller, rows, ranks, told.share, rounds=ROUNDS)
    gone = set(worst(rows, ranks, told.share).tolist())
    noisy = runs.recall(spoiled)
    cleaned = runs.recall([pair for row, pair in enumerate(spoiled) if row not in gone])
    lost = np.mean(clean) - np.mean(noisy)
    return {
        "shuffled": share,
        "said": told.share,
        "low": told.low,
        "high": told.high,
        "left_out": len(gone),
        "of_them_wrong": len(gone & set(wrong.tolist())) / max(len(gone), 1),
        "clean": clean,
        "noisy": noisy,
        "cleaned": cleaned,
        "came_back": float((np.mean(cleaned) - np.mean(noisy)) / lost) if lost > 0 else 1.0,
        "seconds": time.perf_counter() - began,
    }


def shown(recalls: list[float]) -> str:
    """The mean, and what it is of."""
    return f"{np.mean(recalls):.3f} ({', '.join(f'{one:.3f}' for one in recalls)})"


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.4])
    parser.add_argument("--encoder", default="clip:small-image:32+static")
    parser.add_argument(
        "--teller", default="clip:small-image:32+minilm", help="the towers of the models that tell which captions are shuffled"
    )
    parser.add_argument("--pairs", type=int, default=None, help="the first so many captions, in an order by the seed")
    parser.add_argument(
        "--set", dest="settings", nargs="*", default=[], help="settings of training beside the demo's, NAME=VALUE"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3, help="models of each kind that are judged")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    data = read_named_pictures(cache_folder() / "named-pictures")
    order = np.random.default_rng(given.seed).permutation(len(data.train))[: given.pairs]
    pairs = [data.train[row] for row in np.sort(order)]
    runs = Runs(data, given.encoder, given.settings, teller=given.teller, count=len(pairs), seed=given.seed, seeds=given.seeds)
    clean = runs.recall(pairs)
    lines = []
    for share in given.shares:
        line = judge(runs, pairs, share, clean)
        lines.append(line)
        print(
            f"shuffled {share:.0%}: said {line['said']:.1%} [{line['low']:.1%}, {line['high']:.1%}]; {line['left_out']:,} left out, {line['of_them_wrong']:.0%} of them shuffled; "
            f"Recall@10 clean {shown(clean)}, noisy {shown(line['noisy'])}, cleaned {shown(line['cleaned'])}: {line['came_back']:.0%} of the loss came back "
            f"({line['seconds']:.0f} s)",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1))
    return 0 if all(abs(x["said"] - x["shuffled"]) <= APART and x["came_back"] >= BACK for x in lines) else 1


if __name__ == "__main__":
    sys.exit(main())

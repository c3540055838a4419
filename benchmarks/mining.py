"""Mining hard negatives: nearfar beside sentence-transformers' `mine_hard_negatives`, same vectors, same rule, both exact, one run.

    python benchmarks/mining.py [--documents 100000] [--queries 10000] [--d 384] [--rounds 3] [--json]

Both are given the same rows through an encoder that looks them up, so that what is timed is the search and the rule: five negatives a query of the 51 nearest
documents, none above 0.95 of the positive's similarity. `bare` is the float32 multiply of all queries with all documents alone, the best of several slab heights.
Memory is the growth of a fresh process's high-water mark while it mines, rows and texts apart. Then a token table really encodes all texts, with a cache:
mining again by another rule must not encode or search again. Both of these run in processes of their own.

Ends with exit 1 where a bar fails: the same negatives (but where float32 scores tie), at least 1.5 times the peer's speed, at most 1.25 times the bare multiply,
under a quarter of its memory, and another rule in under 5 % of the first run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from nearfar.encoders import load_encoder
from nearfar.mining import NegativeRule, mine
from nearfar.similarity import slab_ranges
from nearfar.types import Inputs, Pair, Role

COUNT, DEPTH, BELOW = 5, 51, 0.95


class Material:
    """Texts and the row of each: documents in clusters, queries near a document each."""

    def __init__(self, documents: int, queries: int, d: int) -> None:
        draw = torch.Generator().manual_seed(0)
        centres = F.normalize(torch.randn(max(2, documents // 50), d, generator=draw), dim=1)
        own = centres[torch.randint(len(centres), (documents,), generator=draw)]
        self.documents = F.normalize(own + 0.8 * F.normalize(torch.randn(documents, d, generator=draw), dim=1), dim=1)
        self.positive = torch.randperm(documents, generator=draw)[:queries]
        noise = F.normalize(torch.randn(queries, d, generator=draw), dim=1)
        self.queries = F.normalize(self.documents[self.positive] + 0.6 * noise, dim=1)
        self.texts = [f"document {number}" for number in range(documents)]
        self.pairs = [Pair(f"query {i}", self.texts[j]) for i, j in enumerate(self.positive.tolist())]

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """The rows of texts made here."""
        side = self.queries if texts and texts[0].startswith("query") else self.documents
        return side[torch.tensor([int(text.rpartition(" ")[2]) for text in texts], dtype=torch.int64)]


class Given:
    """An encoder whose rows are given."""

    device = torch.device("cpu")

    def __init__(self, material: Material) -> None:
        self._material, self.dim = material, material.documents.shape[1]

    def prepare(self, items: Sequence[str], role: Role = "document") -> Inputs:  # noqa: ARG002 - the protocol
        return _Rows(self._material.rows(items))

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        assert isinstance(inputs, _Rows)
        return inputs.rows

    def fingerprint(self) -> str:
        return f"sha256:{hashlib.sha256(str(tuple(self._material.documents.shape)).encode()).hexdigest()}"

    def save(self, folder: Path) -> None:  # noqa: ARG002 - the protocol
        raise AssertionError("nobody saves it")


class _Rows:
    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.lengths = np.ones(len(rows), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> _Rows:
        return _Rows(self.rows[torch.from_numpy(np.asarray(rows))])


def rule(**changes: float) -> NegativeRule:
    return NegativeRule(**{"count": COUNT, "depth": DEPTH, "below_positive": BELOW, **changes})  # pyright: ignore


def ours(material: Material) -> list[list[str]]:
    """The negatives of each query."""
    mined = mine(material.pairs, encoder=Given(material), rule=rule(), corpus=material.texts)
    return [list(pair.negatives) for pair in mined.pairs]


def theirs(material: Material) -> list[list[str]]:
    """The same by sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model = SimpleNamespace(
        device=torch.device("cpu"),
        encode_document=lambda texts, **_: material.rows(texts).numpy(),
        encode_query=lambda texts, **_: material.rows(texts).numpy(),
        similarity=lambda a, b: torch.as_tensor(a) @ torch.as_tensor(b).T,
        similarity_pairwise=lambda a, b: (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1),
    )
    data = Dataset.from_dict({"query": [p.query for p in material.pairs], "positive": [p.positive for p in material.pairs]})
    found = mine_hard_negatives(
        data,
        model,  # pyright: ignore[reportArgumentType]
        corpus=material.texts,
        num_negatives=COUNT,
        range_max=DEPTH,
        relative_margin=1 - BELOW,
        output_format="triplet",
        verbose=False,
    )
    place = {pair.query: i for i, pair in enumerate(material.pairs)}
    negatives: list[list[str]] = [[] for _ in material.pairs]
    for query, negative in zip(found["query"], found["negative"], strict=True):
        negatives[place[query]].append(negative)
    return negatives


SIDES: dict[str, Callable[[Material], list[list[str]]]] = {"nearfar": ours, "sentence-transformers": theirs}


def bare(material: Material) -> float:
    """Seconds of the float32 multiply alone, the best of several slab heights."""
    took = []
    for height in (128, 256, 512):
        out = torch.empty(height, len(material.documents))
        began = time.perf_counter()
        for start, stop in slab_ranges(len(material.queries), height):
            torch.mm(material.queries[start:stop], material.documents.T, out=out[: stop - start])
        took.append(time.perf_counter() - began)
    return min(took)


def high_water() -> int:
    """The most memory this process ever had, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def growth(side: str, material: Material) -> int:
    """How far mining raises the high-water mark of this process, whose libraries were all used once before."""
    SIDES[side](Material(200, 20, material.documents.shape[1]))
    before = high_water()
    SIDES[side](material)
    return high_water() - before


def differing(material: Material, mine_: list[list[str]], theirs_: list[list[str]]) -> tuple[int, int]:
    """(queries whose negatives differ, those among them where no tie of float32 scores explains it)."""
    differ = unexplained = 0
    for i, (a, b) in enumerate(zip(mine_, theirs_, strict=True)):
        if a != b:
            differ += 1
            scores = [material.rows(found).double() @ material.queries[i].double() for found in (a, b)]
            same = len(a) == len(b) and torch.allclose(scores[0], scores[1], rtol=0, atol=4e-7)
            # at the margin itself a score may fall on either side
            limit = BELOW * float(material.queries[i].double() @ material.documents[material.positive[i]].double())
            edge = any(bool(((s - limit).abs() < 4e-7).any()) for s in scores)
            unexplained += not (same or edge)
    return differ, unexplained


def rules_again(documents: int, queries: int) -> tuple[float, float]:
    """Seconds of the first run with a token table that really encodes, and of mining again by another rule from its cache."""
    encoder = load_encoder("static", dim=256)
    rng = np.random.default_rng(0)
    words = [
        f"{a}{b}" for a in ("mi", "ro", "ta", "ke", "lu", "so") for b in ("ning", "ver", "ble", "ding", "tor", "rate", "mon")
    ]
    texts = [f"{number} " + " ".join(rng.choice(words, 40)) for number in range(documents)]
    pairs = [Pair(f"{' '.join(text.split()[:9])} ?", text) for text in texts[:queries]]
    with tempfile.TemporaryDirectory() as folder:
        took = []
        for asked in (rule(), rule(below_positive=0.9, count=3)):
            began = time.perf_counter()
            mine(pairs, encoder=encoder, rule=asked, corpus=texts, cache=Path(folder))
            took.append(time.perf_counter() - began)
    return took[0], took[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", choices=[*SIDES, "again"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone == "again":
        print(*rules_again(asked.documents, asked.queries))
        return 0
    material = Material(asked.documents, asked.queries, asked.d)
    if asked.alone:
        print(growth(asked.alone, material))
        return 0
    took: dict[str, list[float]] = {}
    found: dict[str, list[list[str]]] = {}
    for number in range(asked.rounds):
        took.setdefault("bare", []).append(bare(material))
        for side, run in SIDES.items():
            began = time.perf_counter()
            found[side] = run(material)
            took.setdefault(side, []).append(time.perf_counter() - began)
        if not asked.json:
            print(f"round {number + 1}: " + ", ".join(f"{side} {times[-1]:.2f} s" for side, times in took.items()), flush=True)
    sizes = [f"--documents={asked.documents}", f"--queries={asked.queries}", f"--d={asked.d}"]

    def alone(what: str) -> list[float]:
        command = [sys.executable, __file__, "--alone", what, *sizes]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [float(number) for number in done.stdout.splitlines()[-1].split()]

    grown = {side: alone(side)[0] for side in SIDES}
    first, again = alone("again")
    differ, unexplained = differing(material, found["nearfar"], found["sentence-transformers"])

    def ratio(side: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(took[side], took[other], strict=True))

    peer, multiply = ratio("sentence-transformers", "nearfar"), ratio("nearfar", "bare")
    share = grown["nearfar"] / max(1, grown["sentence-transformers"])
    bars = [
        (unexplained == 0, f"the same negatives: {differ:,} of {asked.queries:,} queries differ, {unexplained:,} not by a tie"),
        (peer >= 1.5, f"{peer:.2f} times the peer's speed (bar 1.5)"),
        (multiply <= 1.25, f"{multiply:.2f} times the bare float32 multiply (bar 1.25)"),
        (
            share < 0.25,
            f"{grown['nearfar'] / 1e6:,.0f} MB of growth beside {grown['sentence-transformers'] / 1e6:,.0f}: {share:.2f} (bar 0.25)",
        ),
        (again < 0.05 * first, f"another rule in {again:.2f} s after {first:.2f} s: {again / first:.3f} (bar 0.05)"),
    ]
    if asked.json:
        told = {
            "seconds": took,
            "megabytes": {side: size / 1e6 for side, size in grown.items()},
            "first": first,
            "again": again,
        }
        print(json.dumps(told | {"bars": [{"holds": holds, "bar": says} for holds, says in bars]}))
    else:
        for holds, says in bars:
            print("holds " if holds else "FAILS ", says)
    return 0 if all(holds for holds, _ in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

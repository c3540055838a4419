"""Faults planted in real pairs at 1, 5 and 20 %: what the audit says of each, beside the truth.

Usage: python benchmarks/audit.py [--data ../shared/data] [--seeds 3] [--model static] [--pairs N] [--sets medquad] [--faults CODE] [--json OUT]

Prints one line for each set, fault, size and seed, then how many intervals held the truth, and exits with 1 where a fault is not named above info,
or where a clean set has a finding above info.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.auditing import CHECKS, material_of
from nearfar.data.pairs import read_pairs
from nearfar.data.tasks import read_task
from nearfar.embedding import embed
from nearfar.encoders import AnyEncoder, load_encoder
from nearfar.types import Pair, Role, Task

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faults

SHARES = (0.0, 0.01, 0.05, 0.2)
LOOKS = {
    "mismatched_positives": "matching",
    "planted_positives": "negatives",
    "leaked_answers": "leakage",
    "swapped_columns": "columns",
    "cut_in_file": "cut texts",
}
"""The check that looks for each fault; only that one is run."""
Spoiled = tuple[list[Pair], float]


def sets(data: Path, limit: int | None) -> Iterator[tuple[str, list[Pair], Task | None]]:
    """(name, pairs, task) of the real sets that are there, and of one made of nothing."""
    yield "invented", faults.clean_pairs(3_000), faults_task()
    if (data / "medquad").exists():
        yield "medquad", read_pairs(data / "medquad/pairs.jsonl").pairs[:limit], read_task(data / "medquad/task").task
    if (data / "stsb").exists():
        pairs = read_pairs(data / "stsb/train.jsonl").pairs
        yield "stsb, scores of 3 or more", [p for p in pairs if p.score is not None and p.score >= 3], None
    if (data / "banking77").exists():
        by_label: dict[str, list[str]] = defaultdict(list)
        for line in (data / "banking77/train.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            by_label[record["label"]].append(record["text"])
        yield (
            "banking77, pairs of one intent",
            [Pair(a, b, group=k) for k, t in by_label.items() for a, b in zip(t[::2], t[1::2], strict=False)],
            None,
        )


def faults_task() -> Task:
    from nearfar.data.tasks import task_from_pairs

    return task_from_pairs("invented", faults.clean_pairs(500, seed=1))


def kinds(pairs: list[Pair], task: Task | None) -> dict[str, Callable[[float, np.random.Generator], Spoiled]]:
    """Finding code -> how it is planted, for the faults that this set can have."""
    found: dict[str, Callable[[float, np.random.Generator], Spoiled]] = {
        "mismatched_positives": lambda share, rng: faults.shuffle(pairs, share, rng),
        "planted_positives": lambda share, rng: faults.plant(faults.mine(pairs, 2, rng), share, rng),
    }
    if task is not None:
        found["leaked_answers"] = lambda share, rng: faults.leak(pairs, task, share, rng, near=True)
        found["swapped_columns"] = lambda share, rng: faults.swap(pairs, share, rng)
        found["cut_in_file"] = lambda share, rng: faults.truncate(pairs, share, rng)
    return found


@dataclass(frozen=True)
class Places:
    """Texts by their numbers among all that were encoded."""

    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, rows: np.ndarray) -> Places:
        return Places(self.numbers[rows])


class Remembering:
    """An encoder that keeps every row it made: the same pairs are judged over and over, only the faults move."""

    def __init__(self, encoder: AnyEncoder) -> None:
        self._encoder, self.dim, self.device = encoder, encoder.dim, encoder.device
        self._places: dict[tuple[str, str], int] = {}
        self._rows = np.zeros((0, encoder.dim), np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def prepare(self, items: Sequence[str], role: Role = "document") -> Places:
        new = [item for item in dict.fromkeys(items) if (role, item) not in self._places]
        if new:
            self._rows = np.concatenate([self._rows, embed(self._encoder, new, role=role, precision="auto")])
            self._places.update({(role, item): len(self._places) + number for number, item in enumerate(new)})
        return Places(np.array([self._places[role, item] for item in items], np.int64))

    def __call__(self, inputs: Places) -> torch.Tensor:
        return torch.from_numpy(self._rows[inputs.numbers])


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="static")
    parser.add_argument("--pairs", type=int, default=None, help="of MedQuAD: the first so many")
    parser.add_argument("--sets", help="only those whose name begins so")
    parser.add_argument("--faults", help="only this code")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    encoder: Any = Remembering(load_encoder(given.model))
    lines: list[dict[str, Any]] = []
    for name, pairs, task in sets(given.data, given.pairs):
        if not name.startswith(given.sets or ""):
            continue
        for code, spoil in kinds(pairs, task).items():
            if given.faults not in (None, code):
                continue
            for share in SHARES:
                for seed in range(given.seeds if share else 1):
                    spoiled, truth = spoil(share, np.random.default_rng(seed))
                    began = time.perf_counter()
                    with_model = encoder if code == "mismatched_positives" else None
                    judge_by = task if code == "leaked_answers" else None
                    material = material_of(spoiled, task=judge_by, encoder=with_model, model_name=given.model)
                    told = next(check.find for check in CHECKS if check.name == LOOKS[code])(material)
                    lines.append(judge(name, code, truth, seed, told) | {"seconds": time.perf_counter() - began})
                    print(shown(lines[-1]), flush=True)
    wrong = [line for line in lines if (line["planted"] == 0) == (line["severity"] in ("warning", "critical"))]
    sized = [
        line for line in lines if line["planted"] and line["severity"] in ("warning", "critical") and line["low"] is not None
    ]
    held = sum(line["low"] <= line["planted"] <= line["high"] for line in sized)
    print(
        f"\n{held} of {len(sized)} intervals hold the truth; {len(wrong)} of {len(lines)} are not named, or named without cause:"
    )
    for line in wrong:
        print("  " + shown(line))
    if given.json:
        given.json.write_text(json.dumps(lines, indent=1))
    return 1 if wrong else 0


def judge(name: str, code: str, truth: float, seed: int, findings: Any) -> dict[str, Any]:
    """What was said of one planted fault. Of several findings of one code (two lengths of a cut), the one nearest to the truth."""
    mine = [f for f in findings if f.code == code]
    best = min(mine, key=lambda f: abs(f.share - truth), default=None)
    told = {
        "set": name,
        "code": code,
        "planted": truth,
        "seed": seed,
        "severity": None,
        "share": None,
        "low": None,
        "high": None,
    }
    return told if best is None else told | {k: getattr(best, k) for k in ("severity", "share", "low", "high")}


def shown(line: dict[str, Any]) -> str:
    """One line of the table."""
    said = "-" if line["share"] is None else f"{line['share']:6.2%}"
    between = "" if line["low"] is None else f"[{line['low']:.2%}, {line['high']:.2%}]"
    return f"{line['set']:<30} {line['code']:<22} planted {line['planted']:6.2%}  said {said:>7} {between:<18} {line['severity'] or ''}"


if __name__ == "__main__":
    sys.exit(main())

"""Faults planted on purpose: clean pairs made of nothing, and functions that spoil a known share of any pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nearfar.types import Pair, Task

ASPECTS = ("treatment", "outlook", "cause", "diagnosis", "prevention", "history", "cost", "risk")
STARTS = ("The {a} of {n} begins with {x}.", "Doctors describe the {a} of {n} by {x}.", "For {n} the {a} depends on {x}.")
MIDDLES = ("It is often seen beside {x} and {y}.", "Some people also report {x}, rarely {y}.", "A study of {x} showed {y}.")
ENDS = (
    "Ask about {x} at the next visit.",
    "Most of this is gone after {x}.",
    "There is a list of {x} for those who want to know more.",
)


def invented(rng: np.random.Generator, syllables: int = 3) -> str:
    """A word that nobody knows."""
    return "".join(rng.choice(list("bdfgklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(syllables))


def clean_pairs(count: int = 2_000, seed: int = 0) -> list[Pair]:
    """Questions about invented things and answers of four to nine sentences that name them; every pair its own group."""
    rng = np.random.default_rng(seed)
    words = [invented(rng, 2) for _ in range(1_500)]
    found: list[Pair] = []
    for number in range(count):
        name, aspect = f"{invented(rng, 4)} {rng.choice(words)}", str(rng.choice(ASPECTS))
        asked = (f"What is the {aspect} of {name}?", f"Which {aspect} does {name} have?", f"How is the {aspect} of {name}?")
        parts = [str(rng.choice(STARTS)), *rng.choice(MIDDLES, size=rng.integers(2, 7)).tolist(), str(rng.choice(ENDS))]
        text = " ".join(
            part.format(a=aspect, n=name, x=" ".join(rng.choice(words, 3)), y=" ".join(rng.choice(words, 2))) for part in parts
        )
        found.append(Pair(str(rng.choice(asked)), text, group=str(number)))
    return found


def chosen(pairs: list[Pair], share: float, rng: np.random.Generator) -> list[int]:
    """So large a share of the pair numbers, in order."""
    return sorted(rng.choice(len(pairs), round(share * len(pairs)), replace=False).tolist())


def shuffle(pairs: list[Pair], share: float, rng: np.random.Generator) -> tuple[list[Pair], float]:
    """Positives handed on in a ring; (pairs, the share whose positive is another text now)."""
    ring = rng.permutation(chosen(pairs, share, rng)).tolist()
    found = list(pairs)
    for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
        found[here] = replace(pairs[here], positive=pairs[there].positive)
    return found, float(np.mean([a.positive != b.positive for a, b in zip(pairs, found, strict=True)]))


def swap(pairs: list[Pair], share: float, rng: np.random.Generator) -> tuple[list[Pair], float]:
    """Query and positive exchanged."""
    rows = set(chosen(pairs, share, rng))
    found = [replace(p, query=p.positive, positive=p.query) if row in rows else p for row, p in enumerate(pairs)]
    return found, len(rows) / len(pairs)


def truncate(pairs: list[Pair], share: float, rng: np.random.Generator, at: int = 300) -> tuple[list[Pair], float]:
    """Positives that are long enough cut to `at` characters, until so large a share of all distinct documents is cut."""
    distinct = list(dict.fromkeys(p.positive for p in pairs))
    long = [text for text in distinct if len(text) > at + 20]
    picked = {long[i] for i in rng.choice(len(long), round(share * len(distinct)), replace=False)}
    return [replace(p, positive=p.positive[:at]) if p.positive in picked else p for p in pairs], len(picked) / len(distinct)


def leak(
    pairs: list[Pair], task: Task, share: float, rng: np.random.Generator, *, near: bool = False
) -> tuple[list[Pair], float]:
    """Queries of the task put among the pairs, with a judged document; `near` changes a word in every long document."""
    queries = list(task.queries)
    picked = rng.choice(len(queries), round(share * len(queries)), replace=False)
    found = list(pairs)
    for number in picked:
        query = queries[number]
        document = task.corpus[next(d for d, grade in task.judgements[query].items() if grade > 0)]
        words = document.split()
        if near and len(words) > 30:
            words[len(words) // 2] = "altogether"
        found.append(Pair(task.queries[query], " ".join(words)))
    return found, len(picked) / len(queries)


def mine(pairs: list[Pair], count: int, rng: np.random.Generator) -> list[Pair]:
    """Each pair with `count` positives of other pairs as negatives, none of its own query or group."""
    found = []
    for pair in pairs:
        others = [pairs[i] for i in rng.integers(len(pairs), size=3 * count)]
        fair = [
            o.positive
            for o in others
            if o.query != pair.query and o.positive != pair.positive and (o.group is None or o.group != pair.group)
        ]
        found.append(replace(pair, negatives=tuple(fair[:count])))
    return found


def plant(pairs: list[Pair], share: float, rng: np.random.Generator) -> tuple[list[Pair], float]:
    """So large a share of the negatives replaced by the pair's own positive, with a word changed or as it is."""
    total = sum(len(p.negatives) for p in pairs)
    picked = set(rng.choice(total, round(share * total), replace=False).tolist())
    found, number = [], 0
    for pair in pairs:
        negatives = list(pair.negatives)
        for place in range(len(negatives)):
            if number in picked:
                words = pair.positive.split()
                if len(words) > 30 and number % 2:
                    words[len(words) // 2] = "altogether"
                negatives[place] = " ".join(words)
            number += 1
        found.append(replace(pair, negatives=tuple(negatives)))
    return found, len(picked) / total

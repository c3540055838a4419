"""What the temperature does to InfoNCE's gradient, on real embeddings: how many negatives share the push, and how hard they are pushed.

    python benchmarks/temperature.py [--pairs PAIRS] [--encoder minilm] [--batch 512] [--json]

The stock encoder embeds `batch` pairs (default: docstrings of this Python and their functions); each is the others' negative. Per temperature, means over rows:
entropy in nats of the softmax over negatives, its exponential (the effective number of negatives), the share of the push that the hardest negative takes, the
share of rows whose positive already has more than 0.99 of the softmax (they teach nothing), and the norm of the gradient of a row. Ends with exit 1 where
entropy does not rise with the temperature, which would make what `nearfar.losses.temperature` says false.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys

import numpy as np
import torch

import nearfar
from nearfar.losses import gradient_entropy, info_nce

TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0)


def pairs_of(path: str | None, count: int) -> list[tuple[str, str]]:
    """`count` pairs spread over the file, or over the docstrings of this Python, each query and document once."""
    if path is None:
        from nearfar.data.sources.python_docs import read_python_docs

        found = [(pair.query, pair.positive) for pair in read_python_docs().train]
    else:
        found = [(pair.query, pair.positive) for pair in nearfar.read_pairs(path).pairs]
    chosen = np.random.default_rng(0).permutation(len(found))
    unique: dict[str, str] = {}
    documents: set[str] = set()
    for place in chosen.tolist():
        query, document = found[place]
        if query not in unique and document not in documents:
            unique[query] = document
            documents.add(document)
        if len(unique) == count:
            break
    return list(unique.items())


def measure(queries: torch.Tensor, documents: torch.Tensor, temperature: float) -> dict[str, float]:
    q = queries.clone().requires_grad_()
    info_nce(q, documents, temperature=temperature).sum().backward()
    assert q.grad is not None
    entropy = gradient_entropy(queries, documents, temperature=temperature)
    logits = queries @ documents.T / temperature
    positive = logits.softmax(dim=1).diagonal()
    hardest = logits.fill_diagonal_(-torch.inf).softmax(dim=1).amax(dim=1)
    return {
        "temperature": temperature,
        "entropy": round(float(entropy.mean()), 2),
        "negatives": round(float(entropy.exp().mean()), 1),
        "hardest": round(float(hardest.mean()), 3),
        "settled": round(float((positive > 0.99).float().mean()), 3),
        "gradient": round(float(q.grad.norm(dim=1).mean()), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    pairs = pairs_of(asked.pairs, asked.batch)
    encoder = nearfar.load_encoder(asked.encoder)
    queries, documents = (
        torch.from_numpy(np.ascontiguousarray(nearfar.embed(encoder, list(texts), role=role)))
        for texts, role in zip(zip(*pairs, strict=True), ("query", "document"), strict=True)
    )
    found = [measure(queries, documents, t) for t in TEMPERATURES]
    holds = all(a["entropy"] <= b["entropy"] for a, b in itertools.pairwise(found))
    if asked.json:
        print(json.dumps({"pairs": len(pairs), "rows": found, "holds": holds}))
    else:
        print(f"{len(pairs)} pairs, {asked.encoder}; log of the number of negatives: {np.log(len(pairs) - 1):.2f}")
        print("  ".join(f"{name:>11}" for name in found[0]))
        for row in found:
            print("  ".join(f"{value:>11}" for value in row.values()))
        print("holds: entropy rises with the temperature" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

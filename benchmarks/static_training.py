"""Pairs a second of training a static encoder: nearfar beside sentence-transformers' trainer, same pairs, one run.

    python benchmarks/static_training.py [--pairs 20000] [--batch 2048] [--epochs 4] [--rounds 3] [--json]

Both start from texts and the same token table (dimension 256) and tokenizer and count everything up to the last step: tokenization,
sampling, loss, optimizer. nearfar's trainer also writes its run folder; evaluation is off in both. Dropped: loading libraries.
Ends with exit 1 where nearfar trains fewer than three times the pairs a second.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from nearfar.data.sources import read_python_docs
from nearfar.encoders import StaticEncoder, load_encoder
from nearfar.training import parse_settings, train
from nearfar.types import Pair

from peer_trainer import train_peer


def ours(encoder: StaticEncoder, pairs: list[Pair], batch: int, epochs: int, out: Path) -> float:
    """Seconds of a whole run."""
    fresh = StaticEncoder(encoder.weight.detach().clone(), encoder.tokenizer, max_length=encoder.max_length)
    settings = [
        f"batch_size={batch}",
        f"epochs={epochs}",
        "evaluation.dev=0",
        "evaluation.judge=0",
        "evaluation.outside_texts=0",
    ]
    began = time.perf_counter()
    result = train(pairs, out=out, encoder=fresh, config=parse_settings(settings))
    assert result.pairs == len(pairs)
    return time.perf_counter() - began


def theirs(encoder: StaticEncoder, pairs: list[Pair], batch: int, epochs: int, out: Path) -> float:
    """Seconds of sentence-transformers' trainer with StaticEmbedding and MultipleNegativesRankingLoss."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = StaticEmbedding(encoder.tokenizer, embedding_weights=encoder.weight.detach().numpy().copy())
    model = SentenceTransformer(modules=[table], device="cpu")
    loss = MultipleNegativesRankingLoss(model, scale=20.0)
    told = {"num_train_epochs": epochs, "per_device_train_batch_size": batch, "learning_rate": 0.1}
    return train_peer(model, loss, pairs, out, **told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    pairs = read_python_docs().train[: asked.pairs]
    encoder = load_encoder("static", dim=256, max_length=256)
    assert isinstance(encoder, StaticEncoder)
    seen = len(pairs) * asked.epochs
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.rounds):
            mine = ours(encoder, pairs, asked.batch, asked.epochs, Path(folder) / f"ours{number}")
            peer = theirs(encoder, pairs, asked.batch, asked.epochs, Path(folder) / f"theirs{number}")
            rounds.append((mine, peer))
            if not asked.json:
                print(
                    f"round {number + 1}: nearfar {seen / mine:,.0f} pairs/s, sentence-transformers {seen / peer:,.0f} pairs/s, "
                    f"ratio {peer / mine:.2f}"
                )
    ratio = sorted(peer / mine for mine, peer in rounds)[len(rounds) // 2]
    result = {
        "pairs": len(pairs),
        "batch": asked.batch,
        "epochs": asked.epochs,
        "threads": torch.get_num_threads(),
        "nearfar_pairs_per_second": round(seen / min(m for m, _ in rounds)),
        "sentence_transformers_pairs_per_second": round(seen / min(p for _, p in rounds)),
        "median_ratio": round(ratio, 2),
    }
    print(json.dumps(result) if asked.json else f"median ratio {ratio:.2f} ({'holds' if ratio >= 3 else 'DOES NOT HOLD'}: 3x)")
    return 0 if ratio >= 3 else 1


if __name__ == "__main__":
    sys.exit(main())

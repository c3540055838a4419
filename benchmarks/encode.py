"""Texts a second of encoding with MiniLM: nearfar beside SentenceTransformer.encode at its defaults and with bfloat16 weights.

    python benchmarks/encode.py TEXTS [--texts 600] [--rounds 3] [--json]

TEXTS is a corpus.jsonl (documents of mixed length; the bars were measured on MedQuAD's). Everything from texts to float32 rows on the CPU counts, at 256 tokens a
text; loading the models does not. nearfar runs as `nearfar encode` does (precision auto). Rounds run every system in turn; ratios are of one round, their median is
shown. The smallest cosine is between nearfar's rows and sentence-transformers' float32 rows of the same text.

Ends with exit 1 under 2 times the default, under 1.2 times bfloat16 weights, or where a cosine is below 0.9995.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nearfar.data.tasks import read_corpus
from nearfar.embedding import embed
from nearfar.encoders import load_encoder
from nearfar.encoders.load import starter_folder

LENGTH = 256
BARS = {"float32": 2.0, "bfloat16": 1.2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    from sentence_transformers import SentenceTransformer

    corpus = list(read_corpus(asked.corpus).values())
    texts = [corpus[i] for i in np.random.default_rng(0).permutation(len(corpus))[: asked.texts]]
    ours = load_encoder("minilm", max_length=LENGTH)
    systems: dict[str, Callable[[], np.ndarray]] = {"nearfar": lambda: embed(ours, texts, precision="auto")}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        peer = SentenceTransformer(str(starter_folder()), device="cpu", model_kwargs={"dtype": dtype})
        peer.max_seq_length = LENGTH
        systems[name] = lambda peer=peer: peer.encode(texts, convert_to_tensor=True, show_progress_bar=False).float().numpy()
    took: dict[str, list[float]] = {name: [] for name in systems}
    rows: dict[str, np.ndarray] = {}
    embed(ours, texts[:16], precision="auto")  # what torch loads on first use is no cost of encoding
    for number in range(asked.rounds):
        for name, run in systems.items():
            began = time.perf_counter()
            rows[name] = run()
            took[name].append(time.perf_counter() - began)
        if not asked.json:
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {len(texts) / t[-1]:.1f} texts/s" for name, t in took.items()),
                flush=True,
            )
    cosine = {name: float((found * rows["float32"]).sum(axis=1).min()) for name, found in rows.items()}
    ratios = {name: statistics.median(t / o for t, o in zip(took[name], took["nearfar"], strict=True)) for name in BARS}
    holds = cosine["nearfar"] >= 0.9995 and all(ratios[name] >= bar for name, bar in BARS.items())
    if asked.json:
        print(json.dumps({"texts": len(texts), "ratios": ratios, "smallest_cosine": cosine, "holds": holds}))
    else:
        for name, bar in BARS.items():
            print(
                f"{ratios[name]:.2f} times SentenceTransformer.encode in {name} ({'holds' if ratios[name] >= bar else 'FAILS'}: {bar})"
            )
        print(
            f"smallest cosine to float32: nearfar {cosine['nearfar']:.5f} (bar 0.9995), bfloat16 weights {cosine['bfloat16']:.5f}"
        )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

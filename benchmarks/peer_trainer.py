"""sentence-transformers' trainer as the benchmarks run it: in-batch negatives, everything but what is compared at its defaults, nothing saved."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nearfar.types import Pair


def train_peer(model: Any, loss: Any, pairs: list[Pair], out: Path, **told: Any) -> float:
    """Train `model` (a SentenceTransformer) by `loss` on query and positive of each pair; returns the seconds of `trainer.train()` alone.

    `told` are arguments of SentenceTransformerTrainingArguments: batch, epochs, learning rate and what else is compared.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    data = Dataset.from_dict({"anchor": [p.query for p in pairs], "positive": [p.positive for p in pairs]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        warmup_steps=0.1,
        batch_sampler="no_duplicates",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        **told,
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began

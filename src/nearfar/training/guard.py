"""Who chooses and who judges: the dev task picks the weights that become `model/`, the task judges start and result once each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nearfar.evaluation import Evaluation, evaluate
from nearfar.training.config import Config
from nearfar.training.state import State, TrainableEncoder, Work
from nearfar.types import Progress, Task, silent


def choose(work: Work, state: State) -> None:
    """Score the dev task; where it is the best so far (or nothing can say), these weights become `model/`."""
    score = None
    if work.dev is not None:
        metric = work.config.evaluation.metric
        found = evaluate(state.encoder, work.dev, metrics=[metric], depth=100, progress=silent)
        score = float(np.mean(found.metrics[metric]))
        state.dev_scores.append((state.step, score))
        work.progress("dev", state.step, work.total, score=score)
    if score is None or state.best_score is None or score > state.best_score:
        state.best_step, state.best_score = state.step, score
        state.encoder.save(work.run / "model")


def judge(
    model: TrainableEncoder,
    task: Task | None,
    path: Path,
    name: str,
    config: Config,
    progress: Progress,
    *,
    keep: bool = True,
) -> Evaluation | None:
    """The evaluation on the judging task; read back where an earlier process of this run wrote it (`keep`)."""
    if task is None:
        return None
    if keep and path.exists():
        return Evaluation.load(path)
    metrics = list(dict.fromkeys(["ndcg@10", "recall@10", "mrr@10", config.evaluation.metric]))
    found = evaluate(model, task, metrics=metrics, name=name, progress=progress)
    found.save(path)
    return found

"""nearfar: train embedding models by contrast, prove the gain, and put them to use.

    import nearfar

    file = nearfar.read_pairs("pairs.csv")
    result = nearfar.train(file.pairs, out="run", encoder="static")
    print(result.verdict, result.comparison)

Importing this loads neither torch nor numpy: each name is fetched from its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nearfar import losses, metrics
    from nearfar.auditing import Audit, audit
    from nearfar.data.pairs import read_pairs, write_pairs
    from nearfar.data.tasks import read_task, task_from_pairs, write_task
    from nearfar.embedding import embed
    from nearfar.encoders import load_encoder
    from nearfar.errors import NearfarError
    from nearfar.evaluation import Comparison, Evaluation, compare, evaluate, score_table
    from nearfar.index import open_index
    from nearfar.mining import NegativeRule, mine
    from nearfar.retrieval import build_index, search
    from nearfar.training import Config, RunResult, parse_settings, train
    from nearfar.types import Batch, Checkpoint, Encoder, Finding, Hits, Index, Loss, Pair, RowLoss, Targets, Task

_HOME = {
    "nearfar.auditing": ("Audit", "audit"),
    "nearfar.data.pairs": ("read_pairs", "write_pairs"),
    "nearfar.data.tasks": ("read_task", "task_from_pairs", "write_task"),
    "nearfar.embedding": ("embed",),
    "nearfar.encoders": ("load_encoder",),
    "nearfar.errors": ("NearfarError",),
    "nearfar.evaluation": ("Comparison", "Evaluation", "compare", "evaluate", "score_table"),
    "nearfar.index": ("open_index",),
    "nearfar.mining": ("NegativeRule", "mine"),
    "nearfar.retrieval": ("build_index", "search"),
    "nearfar.training": ("Config", "RunResult", "parse_settings", "train"),
    "nearfar.types": (
        "Batch",
        "Checkpoint",
        "Encoder",
        "Finding",
        "Hits",
        "Index",
        "Loss",
        "Pair",
        "RowLoss",
        "Targets",
        "Task",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
_MODULES = ("losses", "metrics")

__all__ = [
    "Audit",
    "Batch",
    "Checkpoint",
    "Comparison",
    "Config",
    "Encoder",
    "Evaluation",
    "Finding",
    "Hits",
    "Index",
    "Loss",
    "NearfarError",
    "NegativeRule",
    "Pair",
    "RowLoss",
    "RunResult",
    "Targets",
    "Task",
    "audit",
    "build_index",
    "compare",
    "embed",
    "evaluate",
    "load_encoder",
    "losses",
    "metrics",
    "mine",
    "open_index",
    "parse_settings",
    "read_pairs",
    "read_task",
    "score_table",
    "search",
    "task_from_pairs",
    "train",
    "write_pairs",
    "write_task",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"nearfar.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nearfar' has no attribute {name!r}")
    found = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

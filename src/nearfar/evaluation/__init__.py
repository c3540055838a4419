"""How good a system is on a task, whether another is better, and where."""

from nearfar.evaluation.compare import Comparison, RankChange, RankChanges, compare, rank_changes
from nearfar.evaluation.evaluate import Evaluation, evaluate, fingerprint_task
from nearfar.evaluation.table import score_table

__all__ = [
    "Comparison",
    "Evaluation",
    "RankChange",
    "RankChanges",
    "compare",
    "evaluate",
    "fingerprint_task",
    "rank_changes",
    "score_table",
]

"""How good a system is on a task, whether another is better, and where."""

from nearfar.evaluation.compare import Comparison, RankChange, RankChanges, compare, rank_changes
from nearfar.evaluation.evaluate import Evaluation, evaluate, evaluate_rows, fingerprint_task
from nearfar.evaluation.image_text import Direction, ImageText, evaluate_image_text, is_image_text
from nearfar.evaluation.probes import effective_rank, knn_accuracy, knn_classes, linear_probe
from nearfar.evaluation.retention import Overlap, Retention, compare_neighbours, judge_retention, neighbour_overlap
from nearfar.evaluation.table import score_table

__all__ = [
    "Comparison",
    "Direction",
    "Evaluation",
    "ImageText",
    "Overlap",
    "RankChange",
    "RankChanges",
    "Retention",
    "compare",
    "compare_neighbours",
    "effective_rank",
    "evaluate",
    "evaluate_image_text",
    "evaluate_rows",
    "fingerprint_task",
    "is_image_text",
    "judge_retention",
    "knn_accuracy",
    "knn_classes",
    "linear_probe",
    "neighbour_overlap",
    "rank_changes",
    "score_table",
]

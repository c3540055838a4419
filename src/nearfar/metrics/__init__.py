"""Metrics of rankings, and what may be concluded from them: numbers per query, intervals, paired tests."""

from nearfar.metrics.modalities import ModalityGap, Nearness, first_ranks, modality_gap, nearness
from nearfar.metrics.power import queries_needed
from nearfar.metrics.ranking import Gain, Metric, label, order_by_score, parse_metric, score_run
from nearfar.metrics.shares import share_interval, stratified_interval
from nearfar.metrics.significance import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    holm,
    median_interval,
    paired_difference,
)

__all__ = [
    "Gain",
    "Interval",
    "Metric",
    "ModalityGap",
    "Nearness",
    "PairedDifference",
    "bootstrap_interval",
    "first_ranks",
    "holm",
    "label",
    "median_interval",
    "modality_gap",
    "nearness",
    "order_by_score",
    "paired_difference",
    "parse_metric",
    "queries_needed",
    "score_run",
    "share_interval",
    "stratified_interval",
]

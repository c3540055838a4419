"""Evaluations and comparisons as plain text, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.evaluation.compare import Comparison
from nearfar.evaluation.evaluate import Evaluation
from nearfar.metrics.ranking import label

WIDTH = 100
_NAME = 30


def score_table(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison] = ()) -> str:
    """Systems with mean and 95 % interval of every metric; comparisons with difference, interval, p, queries won and lost.

    No line is wider than 100 columns: long names are cut, and metrics that do not fit go into a second block. A metric that a
    system was not measured with shows as `-`. Ends without a line break; nothing to show gives an empty text.
    """
    blocks = [*_systems(evaluations), *([_comparisons(comparisons)] if comparisons else [])]
    return "\n\n".join(blocks)


def format_p(p: float) -> str:
    """A p-value for people: three decimals, and `<0.001` below that."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _systems(evaluations: Sequence[Evaluation]) -> list[str]:
    metrics = list(dict.fromkeys(name for found in evaluations for name in found.metrics))
    summaries = [found.summary() for found in evaluations]
    names = [_cut(found.system, _NAME) for found in evaluations]
    cell = len("0.000 [0.000, 0.000]")
    width = max((len(name) for name in [*names, "system"]), default=0)
    at_once = max((WIDTH - width) // (cell + 2), 1)
    blocks = []
    for start in range(0, len(metrics), at_once):
        shown = metrics[start : start + at_once]
        rows = [["system", *(label(name) for name in shown)]]
        for name, summary in zip(names, summaries, strict=True):
            cells = [
                f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if (found := summary.get(metric)) else "-"
                for metric in shown
            ]
            rows.append([name, *cells])
        blocks.append(_lay_out(rows))
    return blocks


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    rows = [["metric", "difference", "p", "better", "worse", "verdict"]]
    for found in comparisons:
        interval = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        counts = str(found.better), str(found.worse)
        rows.append([label(found.metric), interval, format_p(found.p), *counts, found.verdict])
    left = WIDTH - sum(max(len(cell) for cell in column) + 2 for column in zip(*rows, strict=True))
    names = ["comparison", *(_versus(found.a, found.b, left) for found in comparisons)]
    return _lay_out([[name, *row] for name, row in zip(names, rows, strict=True)], right=(3, 4, 5))


def _versus(a: str, b: str, width: int) -> str:
    """`a vs b`, the longer name cut first."""
    half = (width - len(" vs ")) // 2
    return f"{_cut(a, half + max(half - len(b), 0))} vs {_cut(b, half + max(half - len(a), 0))}"


def _lay_out(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

"""Grids for a report, from what an evaluation found: captions with their pictures, and pictures with their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nearfar.evaluation import RankChange
from nearfar.evaluation.image_text import Direction
from nearfar.report import Grid, GridRow, Tile
from nearfar.types import Picture, Task

ROWS, TILES = 14, 7


def rank_grid(title: str, caption: str, found: Direction, task: Task, *, best: bool, rows: int = ROWS) -> Grid:
    """The queries whose first right answer stands first (`best`), evenly over the task, or farthest down; each with its first answers, right
    ones framed, and at the end the right one where it is not among them.
    """
    evaluation = found.evaluation
    if best:
        hits = np.flatnonzero(found.ranks == 1)
        chosen = hits[np.linspace(0, len(hits) - 1, min(rows, len(hits))).astype(int)] if len(hits) else hits
    else:
        # not the very worst, which are alike: evenly over the worst quarter, from the worst
        order = np.argsort(-found.ranks, kind="stable")[: max(rows, len(found.ranks) // 4)]
        chosen = order[np.linspace(0, len(order) - 1, min(rows, len(order))).astype(int)]
        chosen = chosen[found.ranks[chosen] > 1]
    made = []
    for number in dict.fromkeys(chosen.tolist()):
        query = evaluation.query_ids[number]
        right = {key for key, grade in task.judgements[query].items() if grade > 0}
        first = evaluation.ranked[number][:TILES]
        if not right & set(first):
            first = first[:-1]
        tiles = [
            Tile(task.corpus[key], f"{score:.2f}", "right" if key in right else "wrong")
            for key, score in zip(first, evaluation.scores[number], strict=False)
        ]
        if not right & set(first):
            tiles.append(Tile(task.corpus[min(right)], f"rank {found.ranks[number]:,}", "right"))
        made.append(GridRow(task.queries[query], f"rank {found.ranks[number]:,} of {len(task.corpus):,}", tiles))
    return Grid(title, caption, made)


def has_pictures(task: Task) -> bool:
    """Whether anything in a task is a picture."""
    return any(isinstance(item, Picture) for side in (task.corpus, task.queries) for item in side.values())


def change_grid(title: str, caption: str, changes: Sequence[RankChange], task: Task) -> Grid:
    """Queries that moved: the right document with its rank before and after, then what each system put first where that was wrong."""
    made = []
    for change in changes:
        moved = " → ".join(f"{rank:,}" if rank else "not found" for rank in (change.before, change.after))
        tiles = [Tile(task.corpus[change.relevant_id], f"rank {moved}", "right")]
        for key, said in ((change.before_id, "first before"), (change.after_id, "first now")):
            if key is not None and task.judgements[change.query_id].get(key, 0) <= 0:
                tiles.append(Tile(task.corpus[key], said, "wrong"))
        made.append(GridRow(task.queries[change.query_id], f"{change.difference:+.2f}", tiles))
    return Grid(title, caption, made)


def neighbour_grid(title: str, caption: str, rows: Float[np.ndarray, "n d"], task: Task, *, count: int = ROWS) -> Grid:
    """Pictures evenly over the task's documents (one row of `rows` each), with the documents nearest to each; the best caption below."""
    keys = list(task.corpus)
    spoken: dict[str, str] = {}
    for query, grades in task.judgements.items():
        for key in grades:
            spoken.setdefault(key, task.queries[query])
    made = []
    for number in np.linspace(0, len(keys) - 1, min(count, len(keys))).astype(int):
        similarity = rows @ rows[number]
        near = [int(n) for n in np.argsort(-similarity, kind="stable") if n != number][:TILES]
        tiles = [Tile(task.corpus[keys[n]], f"{similarity[n]:.2f} {spoken.get(keys[n], '')}") for n in near]
        made.append(GridRow(task.corpus[keys[number]], spoken.get(keys[number], ""), tiles))
    return Grid(title, caption, made)

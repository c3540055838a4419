"""A look while it trains at what no label teaches: pictures (or texts) with labels, told by their neighbours, and whether all rows are falling together.

It decides nothing: what it finds goes to `steps.jsonl`. Rows are those outside training, before a projector.
"""

from __future__ import annotations

import numpy as np

from nearfar.data.pairs import read_pairs
from nearfar.embedding import embed
from nearfar.encoders import AnyEncoder
from nearfar.errors import BadInput
from nearfar.evaluation.probes import effective_rank, knn_classes
from nearfar.training.config import Config
from nearfar.training.state import State, Work
from nearfar.training.watched import Labelled

NEIGHBOURS = (20, 200)
"""Caron 2021's and Wu 2018's."""
MOST = 5000
"""Items looked at: the first of the file, so that each look is of the same."""
COLLAPSED = 2.0
"""An effective rank below it: all rows lie on a line or two."""


def read_labelled(config: Config) -> Labelled | None:
    """The pairs that `watch.labels` names, their positives and groups; None where it names none. Raises `BadInput` for fewer than two classes."""
    if config.watch.labels is None:
        return None
    pairs = [pair for pair in read_pairs(config.watch.labels).pairs if pair.group is not None][:MOST]
    names = {name: number for number, name in enumerate(sorted({str(pair.group) for pair in pairs}))}
    if len(names) < 2:
        raise BadInput(
            f"watch.labels={config.watch.labels}: {len(names)} classes. Give pictures with a column 'label' (or a folder a class), two classes or more."
        )
    return Labelled([pair.positive for pair in pairs], np.array([names[str(pair.group)] for pair in pairs], dtype=np.int64))


def watch_labels(work: Work, state: State) -> dict[str, float]:
    """The share of items whose class the others' nearest tell, and the effective rank of all rows; nothing where none is watched."""
    if work.labelled is None:
        return {}
    found = look(state.encoder, work.labelled)
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    fallen = (
        " All rows lie on a line or two: a collapse (a lower learning rate, a higher temperature, stronger views)."
        if (found["effective_rank"] < COLLAPSED)
        else ""
    )
    work.progress("watch", state.step, work.total, note=f"step {state.step:,}/{work.total:,}: {told}.{fallen}")
    return found


def look(encoder: AnyEncoder, labelled: Labelled) -> dict[str, float]:
    """What `watch_labels` finds of an encoder."""
    rows = embed(encoder, labelled.items)
    own = np.arange(len(rows))
    found = {
        f"knn_{k}": float((knn_classes(rows, rows, labelled.labels, k=k, exclude=own) == labelled.labels).mean())
        for k in NEIGHBOURS
        if k < len(rows)
    }
    return found | {"effective_rank": effective_rank(rows)}

"""From pair numbers to a batch: candidates once each, and who is whose positive by ids."""

from __future__ import annotations

import numpy as np
import torch

from nearfar.data.sampling import PairTable, ranges
from nearfar.types import Batch, Inputs, PairFacts, Targets


def collate(
    table: PairTable, rows: np.ndarray, query_inputs: Inputs, document_inputs: Inputs, *, with_ids: bool = False
) -> Batch:
    """The batch of these pairs [b]: their queries, and as candidates [n] their positives and then their hard negatives, once each.

    `query_inputs` and `document_inputs` are the prepared inputs of `table.queries` and `table.documents`. Ids are given to the targets
    only where something in this batch is shared, so that plain batches cost no mask, or `with_ids` (columns of other batches join it). Scores are there where every pair has one.
    """
    positives = table.positive_of[rows]
    starts, stops = table.negative_offsets[rows], table.negative_offsets[rows + 1]
    counts = stops - starts
    negatives = table.negative_ids[ranges(starts, stops)]
    columns, first, inverse = np.unique(np.concatenate([positives, negatives]), return_index=True, return_inverse=True)
    order = np.argsort(first)  # candidates in order of appearance: the positives first
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    columns, positive, negative = columns[order], rank[inverse[: len(rows)]], rank[inverse[len(rows) :]]

    row_groups, row_items = table.group_of[rows], table.query_item[table.query_of[rows]]
    column_items = table.document_item[columns]
    # a column is a positive of the first row that brought it; a hard negative alone, of a pair that need not be in this batch
    column_groups = _known_groups(table, columns, row_groups)
    column_groups[positive[::-1]] = row_groups[::-1]
    alone = np.ones(len(columns), dtype=bool)
    alone[positive] = False
    shares_group = with_ids or len(np.unique(row_groups)) < len(rows) or bool(np.isin(column_groups[alone], row_groups).any())
    shares_item = (
        with_ids
        or len(np.unique(column_items)) < len(columns)
        or len(np.unique(positive)) < len(rows)
        or bool(np.isin(row_items, column_items).any())
    )
    targets = Targets(
        None if (positive == np.arange(len(rows))).all() else torch.from_numpy(positive),
        row_groups=torch.from_numpy(row_groups) if shares_group else None,
        column_groups=torch.from_numpy(column_groups) if shares_group else None,
        row_items=torch.from_numpy(row_items) if shares_item else None,
        column_items=torch.from_numpy(column_items) if shares_item else None,
    )
    sources = np.unique(table.source_of[rows])
    scores = table.scores[rows]
    facts = PairFacts(
        torch.from_numpy(table.query_of[rows]),
        torch.from_numpy(columns),
        torch.from_numpy(_ragged(negative, counts, -1)),
        None if np.isnan(scores).any() else torch.from_numpy(scores),
        _teacher_scores(table, rows, counts),
        table.sources[sources[0]] if len(sources) == 1 else None,
    )
    return Batch(query_inputs.select(table.query_of[rows]), document_inputs.select(columns), targets, facts)


def _known_groups(table: PairTable, columns: np.ndarray, row_groups: np.ndarray) -> np.ndarray:
    """A group whose positive each document [n] is, one of this batch where there is one, -1 where it is nobody's."""
    starts, stops = table.positive_group_offsets[columns], table.positive_group_offsets[columns + 1]
    groups = table.positive_groups[ranges(starts, stops)]
    owners = np.repeat(np.arange(len(columns)), stops - starts)
    order = np.argsort(np.isin(groups, row_groups), kind="stable")  # what is written last stays
    found = np.full(len(columns), -1, dtype=np.int64)
    found[owners[order]] = groups[order]
    return found


def _teacher_scores(table: PairTable, rows: np.ndarray, negatives: np.ndarray) -> torch.Tensor | None:
    starts, stops = table.teacher_offsets[rows], table.teacher_offsets[rows + 1]
    if ((stops - starts) != negatives + 1).any():
        return None
    return torch.from_numpy(_ragged(table.teacher_scores[ranges(starts, stops)], stops - starts, np.nan))


def _ragged(values: np.ndarray, counts: np.ndarray, filler: float) -> np.ndarray:
    """Values, so many per row, as a table [rows, most], the rest filled."""
    found = np.full((len(counts), int(counts.max(initial=0))), filler, values.dtype)
    found[np.arange(found.shape[1]) < counts[:, None]] = values
    return found

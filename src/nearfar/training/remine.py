"""Hard negatives found anew while training, by the model as it is (Xiong 2020, "ANCE", arXiv 2007.00808), between two steps.

Decisions. Negatives are taken among the run's own documents, so their tokens are there and the batches stay what they were. What was found is part of
the state: it lies in every checkpoint, under its seal, and a run taken up again goes on with the same negatives without a search. A pair for which
nothing passes keeps what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from nearfar.data.sampling import PairTable, epoch_batches
from nearfar.data.text import counted
from nearfar.embedding import embed_inputs
from nearfar.encoders import AnyEncoder
from nearfar.errors import BadConfig
from nearfar.mining.material import Material
from nearfar.mining.rows import similarities
from nearfar.mining.rule import NegativeRule, choose
from nearfar.mining.sources import Search, search_all
from nearfar.similarity import topk
from nearfar.training.config import Config
from nearfar.training.objective import LOSSES, loss_weights
from nearfar.training.record import note_event
from nearfar.training.sources import build_table, plan_mixture
from nearfar.training.state import State, Work
from nearfar.types import Pair

IDS, OFFSETS = "ids", "offsets"
"""What a mining leaves in the state: as `PairTable.negative_ids` and `negative_offsets`."""


def check_mining(config: Config) -> None:
    """Raise `BadConfig` where mining while training cannot be: an impossible rule, or a loss that wants a teacher's scores of each negative."""
    if config.mining.every is None:
        return
    if config.mining.every < 1:
        raise BadConfig(f"mining.every={config.mining.every}: expected 1 or more steps, or none.")
    try:
        mining_rule(config)
    except BadConfig as error:
        raise BadConfig(f"mining.{error}") from None
    names = {*loss_weights(config), *(config.mixture.losses or {}).values()}
    taught = sorted(name for name in names if "teacher" in LOSSES[name].needs)
    if taught:
        raise BadConfig(
            f"mining.every={config.mining.every}: {taught[0]} learns a teacher's scores of each negative, and there are none of those found while "
            "training. Mine before (nearfar mine --teacher MODEL), or choose another loss."
        )


def check_due(pairs: Sequence[Pair], config: Config) -> None:
    """Raise `BadConfig` where the run is over before its first mining. Costs the table of the pairs, and batches up to that step."""
    every = config.mining.every
    if every is None:
        return
    assert config.batch_size is not None
    table = build_table(pairs, config)
    mixture, total = plan_mixture(config, table), 0
    for epoch in range(config.epochs):
        total += len(epoch_batches(table, config.batch_size, seed=config.seed, epoch=epoch, mixture=mixture))
        if total > every:
            return
    way = f"Mine more often (--remine {max(1, total // 4)}), or train" if total > 1 else "Train"
    raise BadConfig(
        f"mining.every={every}: the run has {counted(total, 'step')} ({len(pairs):,} pairs, batch_size={config.batch_size}, epochs={config.epochs}), and is over "
        f"before anything is mined. {way} longer (--set epochs={config.epochs * (every // total + 1)})."
    )


def mining_rule(config: Config) -> NegativeRule:
    """The rule that the settings say."""
    told = config.mining
    return NegativeRule(
        count=told.count, depth=told.depth, skip_top=told.skip_top, below_positive=told.below_positive, seed=config.seed
    )


def mined_table(table: PairTable, state: State) -> PairTable:
    """The pairs with the hard negatives of the newest mining; as they were given where there was none yet."""
    if IDS not in state.mined:
        return table
    none = np.zeros(len(table) + 1, dtype=np.int64)
    ids, offsets = (state.mined[name].numpy() for name in (IDS, OFFSETS))
    return replace(
        table,
        negative_ids=ids,
        negative_offsets=offsets,
        teacher_scores=np.zeros(0, dtype=np.float32),
        teacher_offsets=none,
    )


def remine(work: Work, state: State) -> dict[str, int]:
    """Where a mining is due after this step: search with the model as it is, and keep what was found in the state. What the log says of it."""
    every = work.config.mining.every
    if every is None or state.step % every or state.step >= work.total:
        return {}
    rule = mining_rule(work.config)
    ids, offsets, found = find_negatives(work, state.encoder, rule)
    state.mined = {IDS: torch.from_numpy(ids), OFFSETS: torch.from_numpy(offsets)}
    facts = {"mined": int(found.sum()), "mined_pairs": int((found > 0).sum())}
    note_event(work.run, "remined", step=state.step, asked=rule.count * len(found), **facts)
    return facts


def find_negatives(work: Work, encoder: AnyEncoder, rule: NegativeRule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, offsets) of the hard negatives of every pair, as in `PairTable`, and how many were found for each [P]."""
    table, material = work.table, Material.of_table(work.table)
    queries = embed_inputs(encoder, work.queries)
    documents = embed_inputs(encoder, work.documents)
    candidates = documents[material.candidates]
    search = Search(material, None, min(rule.depth, len(candidates)), rule.seed, work.progress)
    lists = search_all(search, "mine", lambda chosen, width: topk(queries[chosen], candidates, width).ids).ids
    positives = similarities(queries, documents, table.query_of, table.positive_of)
    parts: list[np.ndarray] = []
    counts = np.zeros(len(table), dtype=np.int64)
    found = np.zeros(len(table), dtype=np.int64)
    for start in range(0, len(table), 4096):
        rows = np.arange(start, min(len(table), start + 4096))
        ids = lists[table.query_of[rows]]
        scores = similarities(queries, candidates, table.query_of[rows][:, None], np.maximum(ids, 0))
        places = choose(scores, positives[rows], ids >= 0, rule).places
        for row, own, chosen in zip(rows.tolist(), ids, places, strict=True):
            mined = material.candidates[own[chosen[chosen >= 0]]]
            found[row] = len(mined)
            kept = mined if len(mined) else table.negative_ids[table.negative_offsets[row] : table.negative_offsets[row + 1]]
            parts.append(kept)
            counts[row] = len(kept)
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(counts)]), found

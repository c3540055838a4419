"""Several sources in one run: what each is trained with, and whether its pairs keep to themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from nearfar.data.sampling import (
    Mixture,
    PairTable,
    listed,
    shares_by_temperature,
    shares_by_weight,
)
from nearfar.encoders import AnyEncoder, Pixels
from nearfar.encoders.pixels import join, mix
from nearfar.errors import BadConfig, BadInput
from nearfar.training.config import Config
from nearfar.types import Inputs, Pair, Role

BY_SOURCE = ("weights", "losses", "loss_temperatures", "query_prompts", "document_prompts")
"""The settings of a mixture that are given by source."""
FEWEST = 32
"""Pairs that every source must have for its batches to be its own unless told otherwise: fewer make poor negatives."""


def resolve_mixture(config: Config, pairs: Sequence[Pair]) -> Config:
    """Settle whether a batch is of one source; see `mixture.one_source`. Only there do losses and temperatures by source make sense."""
    mixture = config.mixture
    sizes = Counter(pair.source or "" for pair in pairs)
    if mixture.one_source is None:
        own = bool(mixture.losses or mixture.loss_temperatures)
        one = own or (len(sizes) > 1 and min(sizes.values(), default=0) >= FEWEST)
        return replace(config, mixture=replace(mixture, one_source=one))
    return config


def check_sources(pairs: Sequence[Pair], config: Config) -> None:
    """Raise `BadConfig` where a setting names a source that the pairs do not have, `BadInput` for a source too small to train on alone."""
    mixture = config.mixture
    sizes = Counter(pair.source or "" for pair in pairs)
    check_names(sizes, config)
    if mixture.weights and len(mixture.weights) < len(sizes):
        raise BadConfig(
            f"mixture.weights: {listed(set(sizes) - set(mixture.weights))} has no weight. Weigh every source: NAME:WEIGHT,..."
        )
    if mixture.one_source:
        for source, size in sizes.items():
            if size < 2:
                raise BadInput(
                    f"source {source!r}: {size} pair to train on (others may be held out), which alone in a batch has no negatives. Give it more "
                    "pairs, or mix the sources: --set mixture.one_source=false."
                )


def check_names(sources: Iterable[str], config: Config) -> None:
    """Raise `BadConfig` where a setting by source names one that is not there."""
    there = set(sources)
    for name in BY_SOURCE:
        unknown = sorted(set(getattr(config.mixture, name) or {}) - there)
        if unknown:
            raise BadConfig(
                f"mixture.{name}: there is no source {unknown[0]!r} in the pairs trained on. There are {listed(there)}."
            )


def for_sources(config: Config, pairs: Sequence[Pair]) -> Config:
    """The settings without what they say of sources that these pairs do not have: for a stage that trains on some of them."""
    there = {pair.source or "" for pair in pairs}
    kept = {
        name: {source: value for source, value in given.items() if source in there} or None
        for name in BY_SOURCE
        if (given := getattr(config.mixture, name)) is not None
    }
    return replace(config, mixture=replace(config.mixture, **kept))


def plan_mixture(config: Config, table: PairTable) -> Mixture:
    """How the sampler is to mix the sources of this table."""
    wanted = config.mixture
    shares = None
    if wanted.weights:
        shares = shares_by_weight(table, wanted.weights)
    elif wanted.temperature is not None:
        shares = shares_by_temperature(table, wanted.temperature)
    return Mixture(bool(wanted.one_source), shares)


def build_table(pairs: Sequence[Pair], config: Config) -> PairTable:
    """The table of these pairs, texts kept apart by the prompts of their sources."""
    return PairTable.build(pairs, config.mixture.query_prompts or (), config.mixture.document_prompts or ())


def prepare_items(model: AnyEncoder, table: PairTable, config: Config) -> tuple[Inputs, Inputs]:
    """The prepared queries and documents of the table, each with the prompt of its source, or else the model's own.

    Pictures that are on both sides (two views of each) are decoded once.
    """
    asked, told = config.mixture.query_prompts or {}, config.mixture.document_prompts or {}
    queries = _prepare(model, table.queries, "query", table.query_prompt, table.sources, asked)
    if isinstance(queries, Pixels) and table.queries == table.documents:
        return queries, queries
    return queries, _prepare(model, table.documents, "document", table.document_prompt, table.sources, told)


def _prepare(
    model: AnyEncoder,
    texts: Sequence[str],
    role: Role,
    source_of: np.ndarray,
    sources: Sequence[str],
    prompts: Mapping[str, str],
) -> Inputs:
    if not prompts:
        return model.prepare(texts, role)
    parts: list[Inputs] = []
    chosen: list[np.ndarray] = []
    for source in sorted({int(i) for i in source_of}):
        chosen.append(np.flatnonzero(source_of == source))
        with _prompt(model, role, prompts[sources[source]] if source >= 0 else None):
            parts.append(model.prepare([texts[int(i)] for i in chosen[-1]], role))
    places = np.empty(len(texts), dtype=np.int64)
    places[np.concatenate(chosen)] = np.arange(len(texts))
    kinds, order = join(parts)
    starts = np.cumsum([0, *(len(kind) for kind in kinds)])
    found = order[places]
    split = [
        (kind.select(found[mine] - start), mine)
        for kind, start in zip(kinds, starts, strict=False)
        if len(mine := np.flatnonzero((found >= start) & (found < start + len(kind))))
    ]
    return mix(split, len(texts))


@contextmanager
def _prompt(model: AnyEncoder, role: Role, prompt: str | None) -> Iterator[None]:
    """Another prompt of this role inside; None: the model's own."""
    before = model.prompts
    if prompt is not None:
        model.prompts = before._replace(**{role: prompt})
    try:
        yield
    finally:
        model.prompts = before

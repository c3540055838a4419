"""Whether the chosen losses can be fed by the pairs at hand, and whether every setting given is one that some loss reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nearfar.errors import BadConfig, BadInput
from nearfar.training.config import Config, LossConfig
from nearfar.training.objective import LOSSES, loss_weights, losses_of
from nearfar.types import Pair


def unread_settings(config: Config) -> list[str]:
    """The names of `LossConfig` that were changed from their defaults, and that none of the run's losses reads."""
    read = {name for loss in losses_of(config) for name in LOSSES[loss].reads}
    if len(config.loss.directions or ()) < 2:
        read -= {"partition"}
    owned, plain = {name for entry in LOSSES.values() for name in entry.reads}, LossConfig()
    return sorted(name for name in owned - read if getattr(config.loss, name) != getattr(plain, name))


def refuse_unread(config: Config, unread: Sequence[str], who: str = "this run") -> None:
    """Raise `BadConfig` for the first of these settings, naming the losses that read it."""
    for name in unread:
        value = getattr(config.loss, name)
        if name == "partition" and "info_nce" in losses_of(config):
            raise BadConfig(
                f"loss.partition={value}: it is of several directions, and there is one. Set loss.directions as well, or leave it out."
            )
        readers = [loss for loss, entry in LOSSES.items() if name in entry.reads]
        raise BadConfig(
            f"loss.{name}={','.join(value) if isinstance(value, tuple) else value}: it would change nothing, since {who} has the loss "
            f"{' and '.join(sorted(losses_of(config)))}. It is of {', '.join(readers)}: set loss.name={readers[0]}, or leave it out."
        )


def without_settings(config: Config, names: Sequence[str]) -> Config:
    """The settings with these of `LossConfig` as they are by default."""
    plain = LossConfig()
    return replace(config, loss=replace(config.loss, **{name: getattr(plain, name) for name in names}))


def check_objective(pairs: Sequence[Pair], config: Config) -> None:
    """Raise where the chosen losses cannot be fed by these pairs: `BadConfig` for settings, `BadInput` naming the column that lacks.

    A setting of a loss that the run has not is refused, too: it would change nothing, and whoever gave it thinks otherwise.
    """
    refuse_unread(config, unread_settings(config))
    named = config.mixture.losses or {}
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source if pair.source in named else "", []).append(pair)
    for source, own in by_source.items():
        for name in loss_weights(config, source):
            where = (
                f"source {source!r}, loss {name}"
                if source
                else f"loss.name={name}"
                if name == config.loss.name
                else f"loss {name}"
            )
            _check_loss(name, where, own, config)


def check_dims(config: Config, dim: int) -> None:
    """Raise `BadConfig` where nested dimensions are asked for that the encoder does not have."""
    if config.loss.dims and max(config.loss.dims) > dim:
        raise BadConfig(
            f"loss.dims={','.join(map(str, config.loss.dims))}: this encoder has {dim} dimensions. Leave larger ones out."
        )


def _check_loss(name: str, where: str, pairs: Sequence[Pair], config: Config) -> None:
    entry = LOSSES[name]
    if config.learn_temperature and entry.temperature != "learnable":
        has = "has no temperature" if entry.temperature == "none" else "takes a fixed temperature"
        raise BadConfig(f"{where}: this loss {has}, so there is none to learn. Set learn_temperature=false.")
    if "guide" in entry.needs and config.loss.guide is None:
        raise BadConfig(f"{where}: it needs a guide model. Give one: --set loss.guide=MODEL.")
    scores = [pair.score for pair in pairs]
    if {"score", "label"} & entry.needs:
        _check_scores(where, pairs, labels="label" in entry.needs)
    elif entry.in_batch and set(scores) == {0.0, 1.0}:
        raise BadInput(
            f"{where}: {scores.count(0.0):,} of {len(pairs):,} pairs have score 0 (not alike), and this loss would pull them together. "
            "Leave these pairs out, or choose a loss that reads scores (--set loss.name=contrastive)."
        )
    if "negatives" in entry.needs:
        lacking = [pair for pair in pairs if not pair.negatives]
        if lacking:
            raise BadInput(
                f"{where}: {len(lacking):,} of {len(pairs):,} pairs have no hard negatives (the first: query {lacking[0].query[:60]!r}). Find them "
                "(nearfar mine), give them in a column 'negative', 'negative_1'... or 'negatives', or choose a loss that takes them from the batch."
            )
    if "teacher" in entry.needs and config.loss.teacher is None:
        lacking = [p for p in pairs if not _is_taught(p, margin=name == "margin_mse")]
        if lacking:
            raise BadInput(
                f"{where}: {len(lacking):,} of {len(pairs):,} pairs have no teacher's scores (the first: query {lacking[0].query[:60]!r}). Give them in a "
                "column 'teacher_scores' (a list: of the positive, then of each negative), or a teacher: --set loss.teacher=MODEL."
            )


def _is_taught(pair: Pair, *, margin: bool) -> bool:
    return len(pair.teacher_scores) == len(pair.negatives) + 1 or (
        margin and len(pair.negatives) == 1 and pair.score is not None
    )


def _check_scores(where: str, pairs: Sequence[Pair], *, labels: bool) -> None:
    lacking = [pair for pair in pairs if pair.score is None]
    if lacking:
        raise BadInput(
            f"{where}: {len(lacking):,} of {len(pairs):,} pairs have no score (the first: query {lacking[0].query[:60]!r}). Give a column "
            "'score' (or 'label'), or choose a loss that needs none."
        )
    scores = {pair.score for pair in pairs}
    if labels and not scores <= {0.0, 1.0}:
        wrong = next(pair for pair in pairs if pair.score not in (0.0, 1.0))
        raise BadInput(
            f"{where}: the score of {wrong.query[:60]!r} is {wrong.score}; expected 1 (alike) or 0. For grades choose cosent or "
            "cosine_regression."
        )
    if len(scores) == 1:
        raise BadInput(
            f"{where}: all {len(pairs):,} scores are {scores.pop()}, which tells nothing apart. Check the column 'score'."
        )

"""Which loss is made small: chosen by name through one table, fed with the rows of a batch and what is known of its pairs.

A step needs one line of this file: `loss = work.objective(queries, candidates, batch, state.parameters)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nearfar import losses
from nearfar.errors import BadConfig, BadInput
from nearfar.training.config import Config, LossConfig
from nearfar.types import Batch, Pair, PairFacts, Targets

Need = Literal["score", "label", "negatives", "teacher", "guide"]
"""What a loss asks of the pairs: a graded score, a score of 0 or 1, hard negatives, a teacher's scores, a guide's rows."""
LOG_TEMPERATURE, BIAS = "log_temperature", "siglip_bias"


class Rows(NamedTuple):
    """What a loss may look at: the rows of a batch, what is known of them, and the knobs."""

    queries: Float[Tensor, "b d"]
    candidates: Float[Tensor, "n d"]
    targets: Targets
    facts: PairFacts
    temperature: float | Tensor
    bias: float | Tensor
    guide: tuple[Float[Tensor, "b g"], Float[Tensor, "n g"]] | None
    config: LossConfig

    @property
    def positives(self) -> Float[Tensor, "b d"]:
        """Each query's own positive."""
        own = self.targets.positive
        return self.candidates[: len(self.queries)] if own is None else self.candidates[own]


@dataclass(frozen=True)
class Entry:
    """A loss by name: how it is called, what it asks of the pairs, and whether it has a temperature (that can be learned)."""

    loss: Callable[[Rows], Tensor]
    needs: frozenset[Need] = frozenset()
    temperature: Literal["learnable", "fixed", "none"] = "learnable"
    in_batch: bool = True
    """Whether the other pairs of the batch are its negatives."""
    reads: frozenset[str] = frozenset()
    """The settings of `LossConfig` that are this loss's own: those that several losses of a run share (dims, also) apart."""


def _contrast(loss: Callable[..., Tensor], **knobs: str) -> Callable[[Rows], Tensor]:
    """A loss of rows, columns and targets, with knobs (its name -> the setting's)."""

    def call(rows: Rows) -> Tensor:
        given = {name: getattr(rows.config, setting) for name, setting in knobs.items()}
        return loss(rows.queries, rows.candidates, rows.targets, temperature=rows.temperature, **given)

    return call


def _info_nce(rows: Rows) -> Tensor:
    directions = rows.config.directions or ("query_to_candidate",)
    return losses.info_nce(
        rows.queries,
        rows.candidates,
        rows.targets,
        temperature=rows.temperature,
        directions=directions,
        partition=rows.config.partition,
    )


def _clip(rows: Rows) -> Tensor:
    return _info_nce(
        rows._replace(
            config=replace(rows.config, directions=("query_to_candidate", "candidate_to_query"), partition="per_direction")
        )
    )


def _gte(rows: Rows) -> Tensor:
    every = ("query_to_candidate", "query_to_query", "candidate_to_query", "candidate_to_candidate")
    return _info_nce(rows._replace(config=replace(rows.config, directions=every, partition="joint")))


def _siglip(rows: Rows) -> Tensor:
    return losses.siglip(rows.queries, rows.candidates, rows.targets, temperature=rows.temperature, bias=rows.bias)


def _hardest(rows: Rows) -> Tensor:
    return losses.hardest_negative(rows.queries, rows.candidates, rows.targets, **_given(margin=rows.config.margin))


def _gist(rows: Rows) -> Tensor:
    assert rows.guide is not None
    queries, candidates = (side.to(rows.queries) for side in rows.guide)
    # the positives first, each once per row; then the columns that are nobody's positive
    b, n = len(rows.queries), len(rows.candidates)
    own = torch.arange(b, device=rows.queries.device) if rows.targets.positive is None else rows.targets.positive
    others = torch.ones(n, dtype=torch.bool, device=own.device).index_fill(0, own, False).nonzero()[:, 0]
    order = torch.cat([own, others])
    pick = {name: None if ids is None else ids[order] for name, ids in _column_ids(rows.targets).items()}
    return losses.gist(
        rows.queries,
        rows.candidates[order],
        queries,
        candidates[order],
        temperature=rows.temperature,
        targets=replace(rows.targets, positive=None, **pick),
        **_given(margin=rows.config.margin),
    )


def _column_ids(targets: Targets) -> dict[str, Tensor | None]:
    return {name: getattr(targets, name) for name in ("column_groups", "column_items", "column_owners")}


def _graded(loss: Callable[..., Tensor], *, ordered: bool = True) -> Callable[[Rows], Tensor]:
    """A loss of pairs and their scores; of those that put pairs in order, a batch whose scores are all equal has nothing to say."""

    def call(rows: Rows) -> Tensor:
        scores = _scores(rows)
        if ordered and bool((scores == scores[0]).all()):
            return (rows.queries.sum() + rows.candidates.sum()) * 0.0
        knob = {"temperature": rows.temperature} if ordered else {}
        return loss(rows.queries, rows.positives, scores, **knob)

    return call


def _labelled(loss: Callable[..., Tensor]) -> Callable[[Rows], Tensor]:
    def call(rows: Rows) -> Tensor:
        given = _given(margin=rows.config.margin, distance=rows.config.distance)
        return loss(rows.queries, rows.positives, _scores(rows) == 1, **given)

    return call


def _triplet(rows: Rows) -> Tensor:
    given = _given(margin=rows.config.margin, distance=rows.config.distance)
    return _mean_over_negatives(rows, lambda q, p, n, _row, _slot: losses.triplet(q, p, n, **given))


def _margin_mse(rows: Rows) -> Tensor:
    scores = _teacher(rows) / (rows.config.teacher_temperature or 1.0)

    def loss(q: Tensor, p: Tensor, n: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        return losses.margin_mse(q, p, n, scores[row, 0] - scores[row, slot + 1])

    return _mean_over_negatives(rows, loss)


def _score_kl(rows: Rows) -> Tensor:
    """KL alone, without Hinton's temperature squared, so that a contrastive loss can stand beside it in the proportion of E5."""
    scores, counts = _teacher(rows), (rows.facts.negatives >= 0).sum(dim=1)
    found = rows.queries.new_zeros(len(rows.queries))
    for k in counts.unique().tolist():
        chosen = (counts == k).nonzero()[:, 0]
        own = rows.candidates[rows.facts.negatives[chosen, :k]]
        each = losses.score_kl(
            rows.queries[chosen],
            torch.cat([rows.positives[chosen][:, None], own], dim=1),
            scores[chosen, : k + 1],
            temperature=rows.temperature,
            teacher_temperature=rows.config.teacher_temperature,
        )
        found = found.index_put((chosen,), (each / rows.temperature**2).to(found))
    return found


_DISTANT, _TAUGHT = frozenset({"margin", "distance"}), frozenset({"teacher", "teacher_temperature"})

LOSSES: dict[str, Entry] = {
    "info_nce": Entry(_info_nce, reads=frozenset({"directions", "partition"})),
    "clip": Entry(_clip),
    "gte": Entry(_gte),
    "decoupled": Entry(_contrast(losses.decoupled)),
    "debiased": Entry(
        _contrast(losses.debiased, positive_prior="positive_prior"), temperature="fixed", reads=frozenset({"positive_prior"})
    ),
    "hardness_weighted": Entry(
        _contrast(losses.hardness_weighted, strength="strength"), temperature="fixed", reads=frozenset({"strength"})
    ),
    "smoothed": Entry(_contrast(losses.smoothed, smoothing="smoothing"), reads=frozenset({"smoothing"})),
    "positive_aware": Entry(_contrast(losses.positive_aware, share="share"), reads=frozenset({"share"})),
    "hardest_negative": Entry(_hardest, temperature="none", reads=frozenset({"margin"})),
    "siglip": Entry(_siglip, reads=frozenset({"bias"})),
    "gist": Entry(_gist, frozenset({"guide"}), reads=frozenset({"guide", "margin"})),
    "cosent": Entry(_graded(losses.cosent), frozenset({"score"}), in_batch=False),
    "angle": Entry(_graded(losses.angle), frozenset({"score"}), in_batch=False),
    "pairwise_logistic": Entry(_graded(losses.pairwise_logistic), frozenset({"score"}), in_batch=False),
    "cosine_regression": Entry(
        _graded(losses.cosine_regression, ordered=False), frozenset({"score"}), temperature="none", in_batch=False
    ),
    "contrastive": Entry(
        _labelled(losses.contrastive), frozenset({"label"}), temperature="none", in_batch=False, reads=_DISTANT
    ),
    "online_contrastive": Entry(
        _labelled(losses.online_contrastive), frozenset({"label"}), temperature="none", in_batch=False, reads=_DISTANT
    ),
    "triplet": Entry(_triplet, frozenset({"negatives"}), temperature="none", in_batch=False, reads=_DISTANT),
    "margin_mse": Entry(_margin_mse, frozenset({"negatives", "teacher"}), temperature="none", in_batch=False, reads=_TAUGHT),
    "score_kl": Entry(_score_kl, frozenset({"negatives", "teacher"}), in_batch=False, reads=_TAUGHT),
}
"""Every loss that pairs can feed, by the name it is chosen by."""


def loss_weights(config: Config, source: str | None = None) -> dict[str, float]:
    """The losses of a source's batches with their weights: its own loss alone where it has one, else the run's and those beside it."""
    own = (config.mixture.losses or {}).get(source or "")
    return {own: 1.0} if own else {**(config.loss.also or {}), config.loss.name: 1.0}


@dataclass(frozen=True)
class Objective:
    """The loss of a run, of any batch: one scalar, the mean over its rows, summed over losses and nested dimensions."""

    config: Config
    guide: tuple[Float[Tensor, "q g"], Float[Tensor, "c g"]] | None = None
    """The guide's rows of all distinct queries and documents."""

    def __call__(
        self,
        queries: Float[Tensor, "b d"],
        candidates: Float[Tensor, "n d"],
        batch: Batch,
        parameters: Mapping[str, Tensor],
    ) -> Float[Tensor, ""]:
        """The loss of these rows, differentiable in them and in the loss's own `parameters`; `batch` lies on their device."""
        facts = batch.facts
        assert facts is not None
        rows = Rows(
            queries,
            candidates,
            batch.targets,
            facts,
            self.temperature(facts.source, parameters),
            parameters.get(BIAS, self.config.loss.bias),
            self.guide_of(facts),
            self.config.loss,
        )
        parts = [weight * _nested(name, rows).mean() for name, weight in loss_weights(self.config, facts.source).items()]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def guide_of(self, facts: PairFacts) -> tuple[Float[Tensor, "b g"], Float[Tensor, "n g"]] | None:
        """The guide's rows of a batch's queries and candidates, where there is a guide."""
        ids = (facts.query_ids.cpu(), facts.candidate_ids.cpu())
        return None if self.guide is None else (self.guide[0][ids[0]], self.guide[1][ids[1]])

    def temperature(self, source: str | None, parameters: Mapping[str, Tensor]) -> float | Tensor:
        """The temperature of a source's batches: its own or the run's, learned or fixed."""
        own = self.config.mixture.loss_temperatures or {}
        name = f"{LOG_TEMPERATURE}/{source}" if source in own else LOG_TEMPERATURE
        if name in parameters:
            return parameters[name].exp()
        return own.get(source or "", self.config.temperature)

    def knobs(self, source: str | None, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """What the log of steps says of the loss's knobs."""
        knob = self.temperature(source, parameters)
        found = {"temperature": float(knob.detach()) if isinstance(knob, Tensor) else knob}
        return found | ({"bias": float(parameters[BIAS].detach())} if BIAS in parameters else {})


def _nested(name: str, rows: Rows) -> Tensor:
    dims, entry = rows.config.dims, LOSSES[name]
    if dims is None:
        return entry.loss(rows)
    factors = rows.config.dim_weights or (1.0,) * len(dims)
    if name == "info_nce" and rows.config.directions in (None, ("query_to_candidate",)):
        return losses.matryoshka_info_nce(
            rows.queries, rows.candidates, rows.targets, dims=dims, factors=factors, temperature=rows.temperature
        )
    parts = [
        factor
        * entry.loss(
            rows._replace(
                queries=F.normalize(rows.queries[:, :dim], dim=1), candidates=F.normalize(rows.candidates[:, :dim], dim=1)
            )
        )
        for dim, factor in zip(dims, factors, strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


def new_parameters(config: Config, device: torch.device) -> dict[str, nn.Parameter]:
    """What the losses of a run learn themselves: temperatures (one for each source that has its own) and SigLIP's bias."""
    found: dict[str, nn.Parameter] = {}
    if config.learn_temperature:
        own = {f"{LOG_TEMPERATURE}/{source}": start for source, start in (config.mixture.loss_temperatures or {}).items()}
        for name, start in {LOG_TEMPERATURE: config.temperature, **own}.items():
            found[name] = nn.Parameter(torch.tensor(math.log(start), device=device))
    if "siglip" in losses_of(config):
        found[BIAS] = nn.Parameter(torch.tensor(float(config.loss.bias), device=device))
    return found


def losses_of(config: Config) -> set[str]:
    """The losses that some batch of a run is trained by."""
    return {*loss_weights(config), *(config.mixture.losses or {}).values()}


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


def _scores(rows: Rows) -> Tensor:
    assert rows.facts.scores is not None
    return rows.facts.scores.to(rows.queries)


def _teacher(rows: Rows) -> Tensor:
    assert rows.facts.teacher_scores is not None
    return rows.facts.teacher_scores.to(rows.queries)


def _mean_over_negatives(rows: Rows, loss: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Each row's mean of `loss(query, positive, negative, row, place of the negative)` over its own hard negatives."""
    there = rows.facts.negatives >= 0
    row, slot = there.nonzero(as_tuple=True)
    each = loss(rows.queries[row], rows.positives[row], rows.candidates[rows.facts.negatives[row, slot]], row, slot)
    return each.new_zeros(len(rows.queries)).index_add(0, row, each) / there.sum(dim=1)


def _given(**knobs: Any) -> dict[str, Any]:
    """The knobs that were set: the others are the loss's own to choose."""
    return {name: value for name, value in knobs.items() if value is not None}

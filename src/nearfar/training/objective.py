"""Which loss is made small: chosen by name through one table, fed with the rows of a batch and what is known of its pairs.

A step needs one line of this file: `loss = work.objective(queries, candidates, batch, state.parameters)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nearfar import losses
from nearfar.training.config import Config, LossConfig
from nearfar.types import Batch, PairFacts, Targets

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


def _nt_xent(rows: Rows) -> Tensor:
    """SimCLR's: both views are rows, self is left out, and so is what is known to be alike. Per pair: the mean over its two views."""
    both, b = torch.cat([rows.queries, rows.positives]), len(rows.queries)
    every = torch.arange(2 * b, device=both.device)
    groups, items = _pair_ids(rows)
    own = every if items is None else torch.cat([items, items])
    doubled = None if groups is None else torch.cat([groups, groups])
    targets = Targets(every.roll(b), doubled, doubled, own, own)
    found = losses.info_nce(both, both, targets, temperature=rows.temperature)
    return (found[:b] + found[b:]) / 2


def _sup_con(rows: Rows) -> Tensor:
    """Supervised contrast of both views, labels being the pairs' groups (a pair without a group is its own). Per pair, the mean over its views."""
    groups, _ = _pair_ids(rows)
    b = len(rows.queries)
    labels = torch.arange(b, device=rows.queries.device) if groups is None else groups
    found = losses.sup_con(torch.cat([rows.queries, rows.positives]), torch.cat([labels, labels]), temperature=rows.temperature)
    return (found[:b] + found[b:]) / 2


def _align(rows: Rows) -> Tensor:
    """Label smoothing in both directions (Jia 2021, arXiv 2102.05918, with the smoothing of section 4); hard negatives do not count."""
    groups, items = _pair_ids(rows)
    # alike are two pairs of one group or one positive, seen from either side
    targets = Targets(None, groups, groups, None, items)
    knobs = {"temperature": rows.temperature, "smoothing": rows.config.smoothing}
    queries, positives = rows.queries, rows.positives
    there, back = losses.smoothed(queries, positives, targets, **knobs), losses.smoothed(positives, queries, targets, **knobs)
    return (there + back) / 2


def _pair_ids(rows: Rows) -> tuple[Tensor | None, Tensor | None]:
    """The group of each pair [b], and the item of each pair's positive; None where nothing in this batch is alike."""
    targets = rows.targets
    own = targets.positive
    items = targets.column_items
    if items is not None:
        items = items[: len(rows.queries)] if own is None else items[own]
    return targets.row_groups, items


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
    "nt_xent": Entry(_nt_xent),
    "sup_con": Entry(_sup_con),
    "align": Entry(_align, reads=frozenset({"smoothing"})),
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
        memory: Float[Tensor, "m d"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of these rows, differentiable in them and in the loss's own `parameters`; `batch` lies on their device.

        `memory` is further columns after the candidates, of which the batch's targets speak too (`queue.size`).
        """
        facts = batch.facts
        assert facts is not None
        if memory is not None:
            knob = self.temperature(facts.source, parameters)
            return losses.info_nce(queries, candidates, batch.targets, temperature=knob, memory=memory).mean()
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


@torch.no_grad()
def clamp_parameters(parameters: Mapping[str, Tensor], config: Config) -> None:
    """After a step: a learned temperature that fell below its bound is brought back to it, in place (CLIP: Radford 2021, section 2.5)."""
    for name, parameter in parameters.items():
        if name.split("/")[0] == LOG_TEMPERATURE:
            parameter.clamp_(min=math.log(config.lowest_temperature))


def losses_of(config: Config) -> set[str]:
    """The losses that some batch of a run is trained by."""
    return {*loss_weights(config), *(config.mixture.losses or {}).values()}


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

"""BERT over packed texts: the tokens of a micro-batch end to end, without any padding, in the precision its weights have.

Devlin 2019 (arXiv 1810.04805); the same layers serve RoBERTa and XLM-R (Liu 2019, Conneau 2020), whose positions begin two higher. The parameters stay those
of the transformers model: this is another way to run it, equal in value and in every gradient.

Decisions (2 CPU cores, MiniLM, bfloat16). Everything but attention is row by row, so packed rows need no padding. Attention runs over groups of texts of like
length, by batched multiplies with the probabilities in cache: torch's fused attention takes about twice as long backward at 32 dimensions a head, and with dropout
six times. Forward alone, in bfloat16 on processors with tiles, it is the faster one by half, and runs where rows are wanted outside training. GELU's output is made again for the gradient: it costs less than the memory it would hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nearfar.encoders.dropout import draw, keep, keep_mask, kept_part, kept_share, mark_dropped, next_seed, unmarked
from nearfar.encoders.tokens import Tokens
from nearfar.similarity.multiplies import linear
from nearfar.similarity.products import has_tiles

POSITIONS_BEGIN = {"BertModel": 0, "RobertaModel": 2, "XLMRobertaModel": 2, "CamembertModel": 2}
"""Classes of transformers whose layers are these, and the position number of the first token (padding_idx + 1 where there is one)."""
PARTS = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    *("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)
KINDS = ("weight", "bias")
"""The parameters of a layer: a model with others is not run here."""
TABLES = (
    *(f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")),
    *(f"embeddings.LayerNorm.{kind}" for kind in KINDS),
)
LONGEST_PACKED = 1024
"""Longer texts are left to transformers' own attention, whose memory does not grow with the square of the length."""
GROUP_SLACK = 8
"""Texts whose lengths differ by so many tokens at most (or a sixteenth) attend in one padded group."""
GROUP_SCORES = 1 << 20
"""Attention scores of one group at most (one text at least): what stays in a processor's cache."""


class Group(NamedTuple):
    """Texts that attend together: `texts` of them, each padded to `width` tokens, over the packed rows `start:stop`."""

    start: int
    stop: int
    texts: int
    width: int
    slots: Tensor | None
    """[rows] where each packed row stands among texts * width slots; None where nothing is padded."""
    blank: Tensor | None
    """[texts, 1, width] minus infinity at padding, 0 at tokens."""


@dataclass(frozen=True)
class BertPlan:
    """What of a model's configuration decides how it runs."""

    layers: int
    heads: int
    epsilon: float
    first_position: int
    hidden_dropout: float
    attention_dropout: float
    padding: int | None
    """The filler's id, whose row in the table takes no gradient."""


def plan_of(model: nn.Module) -> BertPlan | None:
    """How to run this model packed, or None where it is none of the classes, or has parts (adapters, causal masks, other activations) that differ."""
    config: Any = model.config
    begins = POSITIONS_BEGIN.get(type(model).__name__)
    if begins is None or config.hidden_act != "gelu" or config.is_decoder or config.add_cross_attention:
        return None
    named = {name for name, _ in model.named_parameters() if name.startswith(("encoder.", "embeddings."))}
    layers = {f"encoder.layer.{n}.{part}.{kind}" for n in range(config.num_hidden_layers) for part in PARTS for kind in KINDS}
    if named != layers | set(TABLES):
        return None
    if begins and config.pad_token_id is not None:
        begins = int(config.pad_token_id) + 1
    return BertPlan(
        config.num_hidden_layers,
        config.num_attention_heads,
        config.layer_norm_eps,
        begins,
        float(config.hidden_dropout_prob),
        float(config.attention_probs_dropout_prob),
        config.pad_token_id,
    )


def run_packed(plan: BertPlan, weights: Mapping[str, Tensor], tokens: Tokens, *, is_training: bool) -> Float[Tensor, "t d"]:
    """The last hidden rows of all tokens, packed as `tokens` are. Fewest groups where the texts come sorted by length."""
    device = weights["embeddings.word_embeddings.weight"].device
    ids = torch.from_numpy(tokens.ids).to(device, torch.int64)
    place = _positions(plan, tokens)
    hidden_rate, attention_rate = (plan.hidden_dropout, plan.attention_dropout) if is_training else (0.0, 0.0)
    rows = F.embedding(ids, weights["embeddings.word_embeddings.weight"], padding_idx=plan.padding)
    rows = rows + F.embedding(torch.from_numpy(place).to(device), weights["embeddings.position_embeddings.weight"])
    rows = rows + weights["embeddings.token_type_embeddings.weight"][0]
    rows = _norm(rows, weights, "embeddings.LayerNorm", plan.epsilon)
    rows = rows.to(weights["encoder.layer.0.output.dense.weight"].dtype)
    if hidden_rate:
        rows = _Drop.apply(rows, hidden_rate, next_seed())
    if not is_training and not torch.is_grad_enabled():
        return _at_rest(plan, weights, rows, tokens)
    groups = group_texts(tokens, plan.heads, device)
    for layer in range(plan.layers):
        rows = _layer(plan, _Scoped(weights, f"encoder.layer.{layer}."), rows, groups, hidden_rate, attention_rate)
    return rows


def _positions(plan: BertPlan, tokens: Tokens) -> np.ndarray:
    """The position of each token in its text. Where the count begins behind the filler's number, a filler within a text has that and is not counted."""
    if not plan.first_position or plan.padding is None or not (tokens.ids == plan.padding).any():
        return np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], tokens.lengths) + plan.first_position
    counts = tokens.ids != plan.padding
    total = np.concatenate([[0], np.cumsum(counts)])
    within = total[1:] - np.repeat(total[tokens.offsets[:-1]], tokens.lengths)
    return np.where(counts, within + plan.first_position - 1, plan.padding)


def group_texts(tokens: Tokens, heads: int, device: torch.device) -> list[Group]:
    """Consecutive texts of like length as groups; texts without tokens belong to none."""
    lengths, groups, first = tokens.lengths.tolist(), list[Group](), 0
    while first < len(lengths):
        last, least, most = first, lengths[first], lengths[first]
        while last + 1 < len(lengths):
            least, most = min(least, lengths[last + 1]), max(most, lengths[last + 1])
            if most - least > max(GROUP_SLACK, most // 16) or (last + 2 - first) * heads * most**2 > GROUP_SCORES:
                break
            last += 1
        if any(lengths[first : last + 1]):
            groups.append(_group(tokens, first, last + 1, device))
        first = last + 1
    return groups


def _group(tokens: Tokens, first: int, last: int, device: torch.device) -> Group:
    lengths = tokens.lengths[first:last]
    start, stop, width = int(tokens.offsets[first]), int(tokens.offsets[last]), int(lengths.max())
    if int(lengths.min()) == width:
        return Group(start, stop, len(lengths), width, None, None)
    real = np.arange(width) < lengths[:, None]
    blank = torch.zeros(len(lengths), 1, width, device=device)
    blank[torch.from_numpy(~real)[:, None].to(device)] = -torch.inf
    blank[torch.from_numpy(lengths == 0).to(device)] = 0.0  # attention over nothing is not a number
    return Group(start, stop, len(lengths), width, torch.from_numpy(np.flatnonzero(real)).to(device), blank)


class _Scoped:
    """Weights under a prefix."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        self.weights, self.prefix = weights, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[self.prefix + name]


def _norm(rows: Tensor, weights: Any, name: str, epsilon: float) -> Tensor:
    return F.layer_norm(rows, rows.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)


def _layer(plan: BertPlan, w: Any, rows: Tensor, groups: list[Group], hidden_rate: float, attention_rate: float) -> Tensor:
    mixed = _Attention.apply(
        _Linear.apply(rows, *_query_key_value(w)), groups, plan.heads, attention_rate, next_seed() if attention_rate else 0
    )
    out = _Linear.apply(mixed, w["attention.output.dense.weight"], w["attention.output.dense.bias"])
    rows = _norm(_residual(rows, out, hidden_rate), w, "attention.output.LayerNorm", plan.epsilon)
    wide = [w[f"{part}.dense.{kind}"] for part in ("intermediate", "output") for kind in KINDS]
    return _norm(_residual(rows, _FeedForward.apply(rows, *wide), hidden_rate), w, "output.LayerNorm", plan.epsilon)


def _query_key_value(w: Any) -> list[Tensor]:
    """The weights and the offsets of all three as one."""
    return [torch.cat([w[f"attention.self.{name}.{kind}"] for name in ("query", "key", "value")]) for kind in KINDS]


def _at_rest(plan: BertPlan, weights: Mapping[str, Tensor], rows: Tensor, tokens: Tokens) -> Tensor:
    """All layers without gradient or dropout. In training never: a micro-batch that is encoded twice has to have the same rows both times."""
    fuses = rows.dtype == torch.bfloat16 and rows.device.type == "cpu" and has_tiles()
    groups = group_texts(tokens, plan.heads, rows.device)
    for layer in range(plan.layers):
        w = _Scoped(weights, f"encoder.layer.{layer}.")
        weight, bias = _query_key_value(w)
        packed = linear(rows, weight, bias)
        mixed = _attend_fused(packed, groups, plan.heads) if fuses else _Attention.apply(packed, groups, plan.heads, 0.0, 0)
        out = linear(mixed, w["attention.output.dense.weight"], w["attention.output.dense.bias"])
        rows = _norm(out.add_(rows), w, "attention.output.LayerNorm", plan.epsilon)
        wide = linear(rows, w["intermediate.dense.weight"], w["intermediate.dense.bias"], "gelu")
        out = linear(wide, w["output.dense.weight"], w["output.dense.bias"])
        rows = _norm(out.add_(rows), w, "output.LayerNorm", plan.epsilon)
    return rows


def _residual(rows: Tensor, out: Tensor, rate: float) -> Tensor:
    out = _Drop.apply(out, rate, next_seed()) if rate else out
    return rows + out if out.requires_grad else out.add_(rows)


class _Drop(torch.autograd.Function):
    """Dropout that keeps its mask for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rate: float, seed: int) -> Tensor:
        mask = keep_mask(draw(rows.numel(), rate, seed, rows.device), rows)
        ctx.save_for_backward(mask)
        ctx.rate = rate
        return keep(rows, mask, rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        return keep(grad, mask, ctx.rate), None, None


class _Linear(torch.autograd.Function):
    """A linear layer by `similarity.multiplies`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return linear(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            grad @ weight if needs[0] else None,
            grad.T @ rows if needs[1] else None,
            grad.sum(dim=0) if needs[2] else None,
        )


class _FeedForward(torch.autograd.Function):
    """Linear, GELU (Hendrycks 2016, the exact form), linear; GELU's output is made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        wide = linear(rows, up, up_bias)
        if not any(ctx.needs_input_grad):
            return linear(torch.ops.aten.gelu_(wide), down, down_bias)
        ctx.save_for_backward(rows, wide, up, down)
        return linear(F.gelu(wide), down, down_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, wide, up, down = ctx.saved_tensors
        needs = ctx.needs_input_grad
        to_down = grad.T @ F.gelu(wide) if needs[3] else None
        to_wide = torch.ops.aten.gelu_backward(grad @ down, wide)
        to_up = (rows.T @ to_wide).T if needs[1] else None  # the long side last: a seventh faster
        sums = [g.sum(dim=0) if needed else None for g, needed in ((to_wide, needs[2]), (grad, needs[4]))]
        return (to_wide @ up if needs[0] else None), to_up, sums[0], to_down, sums[1]


class _Attention(torch.autograd.Function):
    """Scaled dot-product attention (Vaswani 2017, eq. 1) of packed queries, keys and values [t, 3 d], within each text.

    Of the softmax's gradient, p (dp - sum of dp p), the sum is that of a row's own output and its gradient (Dao 2022, appendix B.4).
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor, groups: list[Group], heads: int, rate: float, seed: int) -> Tensor:
        out = packed.new_empty(len(packed), packed.shape[1] // 3)  # every row is of a text, and every text of a group
        kept: list[Tensor] = []
        for number, group in enumerate(groups):
            q, k, v = _spread(packed, group, heads, 3)
            p = _probabilities(q, k, group)
            if ctx.needs_input_grad[0]:
                kept.append(p)
            if rate:
                mark_dropped(p, rate, seed + number)
                p, v = kept_part(p), v * (1 / kept_share(rate))
            _gather(torch.bmm(p, v), group, heads, out)
        ctx.save_for_backward(packed, out, *kept)
        ctx.groups, ctx.heads, ctx.rate = groups, heads, rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        packed, out, *probabilities = ctx.saved_tensors
        result = torch.empty_like(packed)
        d = grad.shape[1]
        sums = (grad.view(len(grad), ctx.heads, -1) * out.view(len(grad), ctx.heads, -1)).sum(dim=-1)
        for group, p in zip(ctx.groups, probabilities, strict=True):
            q, k, v = _spread(packed, group, ctx.heads, 3)
            (g,) = _spread(grad, group, ctx.heads, 1)
            (row,) = _spread(sums, group, ctx.heads, 1)
            if ctx.rate:
                taken, p, v = kept_part(p), unmarked(p), v * (1 / kept_share(ctx.rate))
                to_s = torch.bmm(g, v.transpose(1, 2)).mul_(taken).addcmul_(p, row, value=-1)
                to_v = torch.bmm(taken.transpose(1, 2), g).mul_(1 / kept_share(ctx.rate))
            else:
                to_s = torch.bmm(g, v.transpose(1, 2)).sub_(row).mul_(p)
                to_v = torch.bmm(p.transpose(1, 2), g)
            scale = 1 / math.sqrt(q.shape[-1])
            _gather(torch.bmm(to_s, k).mul_(scale), group, ctx.heads, result[:, :d])
            _gather(torch.bmm(to_s.transpose(1, 2), q).mul_(scale), group, ctx.heads, result[:, d : 2 * d])
            _gather(to_v, group, ctx.heads, result[:, 2 * d :])
        return result, None, None, None, None


def _parts(packed: Tensor, group: Group, heads: int, count: int) -> tuple[Float[Tensor, "texts heads width h"], ...]:
    """The group's rows [rows, count heads h] as `count` tensors, zeros at padding."""
    rows = packed[group.start : group.stop]
    if group.slots is not None:
        padded = rows.new_zeros(group.texts * group.width, rows.shape[1])
        rows = padded.index_copy_(0, group.slots, rows)
    return tuple(rows.reshape(group.texts, group.width, count, heads, -1).permute(2, 0, 3, 1, 4))


def _attend_fused(packed: Tensor, groups: list[Group], heads: int) -> Tensor:
    """Attention by torch, without gradient or dropout."""
    out = packed.new_empty(len(packed), packed.shape[1] // 3)
    for group in groups:
        mask = None if group.blank is None else group.blank.to(packed.dtype)[:, None]
        _gather(F.scaled_dot_product_attention(*_parts(packed, group, heads, 3), attn_mask=mask), group, heads, out)
    return out


def _spread(packed: Tensor, group: Group, heads: int, count: int) -> tuple[Float[Tensor, "ch w h"], ...]:
    """Likewise, texts and heads as one."""
    return tuple(part.reshape(group.texts * heads, group.width, -1) for part in _parts(packed, group, heads, count))


def _gather(found: Float[Tensor, "ch w h"], group: Group, heads: int, out: Tensor) -> None:
    """Put a group's result into the packed rows, padding left out."""
    rows = found.reshape(group.texts, heads, group.width, -1).transpose(1, 2).reshape(group.texts * group.width, -1)
    out[group.start : group.stop] = rows if group.slots is None else rows[group.slots]


def _probabilities(q: Tensor, k: Tensor, group: Group) -> Tensor:
    """Attention probabilities [texts * heads, width, width]; scaled and blanked inside the multiply, they take the place of the scores."""
    blank, scale = group.blank, 1 / math.sqrt(q.shape[-1])
    if blank is None:
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
    else:
        there = blank.to(q.dtype).repeat_interleave(len(q) // group.texts, dim=0)
        scores = torch.baddbmm(there, q, k.transpose(1, 2), alpha=scale)
    return torch.softmax(scores, dim=-1, out=scores)

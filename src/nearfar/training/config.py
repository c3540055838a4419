"""What a run can be told: frozen settings with their meaning beside them, given on the command line as name=value.

Settings left at None are chosen by the kind of encoder or the number of pairs when the run starts; `run.json` says what was chosen.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple

from nearfar.encoders.precision import Precision
from nearfar.errors import BadConfig
from nearfar.training.settings import AugmentConfig, LoraConfig, MiningConfig, ModelConfig, OptimizerConfig, QueueConfig
from nearfar.training.settings import setting as _setting

LossName = Literal[
    "info_nce",
    "clip",
    "gte",
    "decoupled",
    "debiased",
    "hardness_weighted",
    "smoothed",
    "positive_aware",
    "hardest_negative",
    "siglip",
    "nt_xent",
    "sup_con",
    "align",
    "gist",
    "cosent",
    "angle",
    "pairwise_logistic",
    "cosine_regression",
    "contrastive",
    "online_contrastive",
    "triplet",
    "margin_mse",
    "score_kl",
]
"""The losses that pairs can feed (`training/objective.py` has what each needs)."""
Distance = Literal["euclidean", "squared_euclidean", "cosine"]
Direction = Literal["query_to_candidate", "candidate_to_query", "query_to_query", "candidate_to_candidate"]


@dataclass(frozen=True)
class EvaluationConfig:
    """How the best checkpoint is chosen during training."""

    every: int | None = _setting(None, "steps between evaluations on the dev queries (default: eight a run)")
    dev: int | None = _setting(None, "pairs held out to choose the checkpoint (default: a tenth, 400 at most); 0: none")
    judge: int | None = _setting(
        None, "pairs held out to judge the run where no task is given (default: a tenth, 1,000 at most)"
    )
    pool: int = _setting(5000, "documents of the training pairs put among those to be searched (for dev 1,000 at most)")
    metric: str = _setting("ndcg@10", "what the checkpoint is chosen by, and the run judged by")
    # off: the best checkpoint is kept anyway, so stopping saves time and never weights; and as the learning rate falls to zero at the
    # end of the run, a curve that stalls half-way can rise once more. Who waits for hours sets it, and sees the curve as it comes
    patience: int | None = _setting(None, "evaluations without a better lower bound on dev before the run stops (none: never)")
    outside_texts: int = _setting(
        1000, "texts outside the domain whose nearest neighbours before and after are compared, without --retain; 0: none"
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the whole state is saved, so that a killed run can go on."""

    every: int | None = _setting(None, "steps between checkpoints (default: one a minute)")
    keep: int = _setting(2, "newest checkpoints kept; the best model is kept besides")


@dataclass(frozen=True)
class WatchConfig:
    """Who may look on while it trains, besides steps.jsonl."""

    labels: str | None = _setting(
        None, "pictures with labels (a file, a folder a class): what their nearest neighbours tell of them goes to steps.jsonl"
    )
    tensorboard: bool = _setting(False, "write scalars for TensorBoard to RUN/tensorboard (the extra: tracking)")


@dataclass(frozen=True)
class ComputeConfig:
    """How a transformer is run. Only the precision changes what is computed; `micro_tokens` changes which dropout is drawn."""

    precision: Precision = _setting(
        "auto", "of the encoder's multiplies: float32, bfloat16, or auto (bfloat16 where it is fast)"
    )
    micro_tokens: int = _setting(8192, "tokens encoded at once; the loss is over the whole batch all the same")
    keep_megabytes: int | None = _setting(
        None, "memory for activations; what does not fit is encoded twice (default: half of what is free)"
    )


@dataclass(frozen=True)
class LossConfig:
    """What is made small: one of the losses of `nearfar.losses`, its knobs, and further losses beside it."""

    name: LossName = _setting("info_nce", f"the loss: {', '.join(typing.get_args(LossName))}")
    also: dict[str, float] | None = _setting(None, "losses added to it with these weights, as in info_nce:0.2")
    directions: tuple[Direction, ...] | None = _setting(
        None, "of info_nce: query_to_candidate (default), candidate_to_query, query_to_query, candidate_to_candidate"
    )
    partition: Literal["per_direction", "joint"] = _setting("per_direction", "of several directions: a softmax each, or one")
    dims: tuple[int, ...] | None = _setting(
        None, "Matryoshka: the loss is summed over these first dimensions, as in 256,128,64"
    )
    dim_weights: tuple[float, ...] | None = _setting(None, "a weight for each of dims (default: 1 each)")
    margin: float | None = _setting(None, "of contrastive, triplet, hardest_negative and gist (default: the loss's own)")
    distance: Distance | None = _setting(None, "of contrastive (default: cosine) and triplet (default: euclidean)")
    strength: float = _setting(9.0, "of hardness_weighted: negatives weigh exp(strength x similarity)")
    positive_prior: float = _setting(0.1, "of debiased: the chance that a negative is a positive")
    smoothing: float = _setting(0.1, "of smoothed and align: the share of the target spread over all candidates")
    share: float = _setting(
        0.95, "of positive_aware: negatives nearer than this share of the positive's similarity are left out"
    )
    bias: float = _setting(-10.0, "of siglip: where its learned bias starts")
    guide: str | None = _setting(None, "of gist: the model (folder or name) that says which negatives are none")
    teacher: str | None = _setting(
        None, "of margin_mse and score_kl: the model whose scores are learned, where the pairs have none"
    )
    teacher_temperature: float | None = _setting(
        None, "the teacher's scores are divided by it (default: margin_mse 1, score_kl the temperature)"
    )


@dataclass(frozen=True)
class MixtureConfig:
    """Pairs of several sources: how much of each, which are together in a batch, and what each is trained with."""

    one_source: bool | None = _setting(
        None, "whether a batch holds pairs of one source only (default: yes where every source has 32 pairs)"
    )
    weights: dict[str, float] | None = _setting(
        None, "share of the steps by source, as in a:2,b:1 (default: every pair once an epoch)"
    )
    temperature: float | None = _setting(None, "share of the steps ~ size ** (1 / it): 1 as large as they are, high: all alike")
    losses: dict[str, str] | None = _setting(None, "another loss.name by source, as in a:cosent")
    loss_temperatures: dict[str, float] | None = _setting(None, "another temperature of the loss by source, as in a:0.02")
    query_prompts: dict[str, str] | None = _setting(
        None, "put before the queries of a source, in place of the model's own prompt"
    )
    document_prompts: dict[str, str] | None = _setting(None, "put before the documents of a source, likewise")


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    epochs: int = _setting(4, "times every pair is seen")
    batch_size: int | None = _setting(
        None,
        "pairs per step, each the others' negatives (default: static an eighth of the pairs, at most 2048, transformer 64)",
    )
    learning_rate: float | None = _setting(
        None, "highest learning rate (default: static 0.1, transformer 2e-05, adapters 2e-04)"
    )
    warmup: float = _setting(0.1, "share of the steps in which the learning rate rises from zero")
    temperature: float = _setting(0.05, "similarities are divided by it before the softmax")
    learn_temperature: bool = _setting(False, "whether the temperature is learned too, starting from `temperature`")
    lowest_temperature: float = _setting(0.01, "a learned temperature is held at it (CLIP's bound: a scale of 100)")
    dim: int | None = _setting(None, "dimensions of a static table made for this run (default: 256)")
    seed: int = _setting(0, "of the split, the order of the pairs and dropout")
    max_length: int | None = _setting(None, "tokens a text is cut to (default: static 256, transformer as the model says)")
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, equal to what JSON gives back."""
        return asdict(self, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items})


class Setting(NamedTuple):
    """One setting: its dotted name, its value and its meaning."""

    name: str
    value: Any
    meaning: str


def describe_config(config: Config | None = None) -> list[Setting]:
    """All settings with values (default: the defaults) and meanings, in order."""
    return list(_walk(config or Config(), ""))


def parse_settings(settings: Sequence[str], base: Config | None = None) -> Config:
    """`base` (default: the defaults) changed by texts like "batch_size=512" or "optimizer.clip=0".

    Raises `BadConfig` for an unknown name (naming the nearest), a value of the wrong type, and a value out of range.
    """
    config = base or Config()
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadConfig(f"--set {text}: expected NAME=VALUE, as in --set batch_size=512.")
        config = _changed(config, name.strip().split("."), value.strip(), name.strip())
    check_config(config)
    return config


def check_config(config: Config) -> None:
    """Raise `BadConfig` for a value that cannot be."""
    rules: list[tuple[bool, str, str]] = [
        (config.epochs >= 1, "epochs", "1 or more"),
        (config.batch_size is None or config.batch_size >= 2, "batch_size", "2 or more (one pair has no negatives)"),
        (config.learning_rate is None or config.learning_rate > 0, "learning_rate", "above 0"),
        (0 <= config.warmup <= 1, "warmup", "a share from 0 to 1"),
        (config.temperature > 0, "temperature", "above 0"),
        (config.lowest_temperature > 0, "lowest_temperature", "above 0"),
        (
            not config.learn_temperature or config.temperature >= config.lowest_temperature,
            "temperature",
            "lowest_temperature or more, since it is learned from there",
        ),
        (config.model.projector_dim >= 1, "model.projector_dim", "1 or more"),
        (config.augment.strength >= 0, "augment.strength", "0 or more"),
        (config.queue.size >= 0, "queue.size", "0 or more"),
        (0 <= config.queue.momentum < 1, "queue.momentum", "from 0 to below 1"),
        (config.queue.size == 0 or config.loss.name == "info_nce", "queue.size", "loss.name=info_nce beside it, or 0"),
        (0 <= config.optimizer.momentum < 1, "optimizer.momentum", "from 0 to below 1"),
        (config.optimizer.trust > 0, "optimizer.trust", "above 0"),
        (min((config.optimizer.scale or {"": 1}).values()) >= 0, "optimizer.scale", "factors of 0 or more"),
        (config.dim is None or config.dim >= 1, "dim", "1 or more"),
        (config.seed >= 0, "seed", "0 or more"),
        (config.max_length is None or config.max_length >= 1, "max_length", "1 or more"),
        (config.model.head_dim is None or config.model.head_dim >= 1, "model.head_dim", "1 or more"),
        (config.model.head_dim is None or config.model.head != "none", "model.head_dim", "a head: model.head=linear or mlp"),
        (config.model.truncate_dim is None or config.model.truncate_dim >= 1, "model.truncate_dim", "1 or more"),
        (config.model.dropout is None or 0 <= config.model.dropout < 1, "model.dropout", "a share from 0 to below 1"),
        (config.model.freeze_layers >= 0, "model.freeze_layers", "0 or more"),
        (config.lora.rank >= 0, "lora.rank", "0 or more"),
        (config.lora.alpha is None or config.lora.alpha > 0, "lora.alpha", "above 0"),
        (0 <= config.lora.dropout < 1, "lora.dropout", "a share from 0 to below 1"),
        (config.lora.rank > 0 or config.lora == LoraConfig(), "lora.rank", "1 or more, since other lora settings are given"),
        (0 <= config.optimizer.beta1 < 1, "optimizer.beta1", "from 0 to below 1"),
        (0 <= config.optimizer.beta2 < 1, "optimizer.beta2", "from 0 to below 1"),
        (config.optimizer.epsilon > 0, "optimizer.epsilon", "above 0"),
        (config.optimizer.weight_decay >= 0, "optimizer.weight_decay", "0 or more"),
        (config.optimizer.clip >= 0, "optimizer.clip", "0 or more"),
        (config.evaluation.every is None or config.evaluation.every >= 1, "evaluation.every", "1 or more"),
        (config.evaluation.dev is None or config.evaluation.dev >= 0, "evaluation.dev", "0 or more"),
        (config.evaluation.judge is None or config.evaluation.judge >= 0, "evaluation.judge", "0 or more"),
        (config.evaluation.pool >= 0, "evaluation.pool", "0 or more"),
        (config.evaluation.patience is None or config.evaluation.patience >= 1, "evaluation.patience", "1 or more, or none"),
        (
            config.evaluation.outside_texts == 0 or config.evaluation.outside_texts >= 100,
            "evaluation.outside_texts",
            "100 or more (fewer say nothing), or 0",
        ),
        (config.checkpoint.every is None or config.checkpoint.every >= 1, "checkpoint.every", "1 or more"),
        (config.checkpoint.keep >= 1, "checkpoint.keep", "1 or more"),
        (config.compute.micro_tokens >= 1, "compute.micro_tokens", "1 or more"),
        (config.compute.keep_megabytes is None or config.compute.keep_megabytes >= 0, "compute.keep_megabytes", "0 or more"),
        *_loss_rules(config.loss),
        *_mixture_rules(config.mixture),
    ]
    values = {setting.name: setting.value for setting in describe_config(config)}
    for holds, name, wanted in rules:
        if not holds:
            raise BadConfig(f"{name}={values[name]}: expected {wanted}.")
    from nearfar.metrics.ranking import parse_metric

    parse_metric(config.evaluation.metric)


def _loss_rules(loss: LossConfig) -> list[tuple[bool, str, str]]:
    known = typing.get_args(LossName)
    several, dims = loss.directions or ("query_to_candidate",), loss.dims or (1,)
    weights = loss.dim_weights
    return [
        (loss.also is None or set(loss.also) <= set(known), "loss.also", f"NAME:WEIGHT,... with names of {', '.join(known)}"),
        (loss.also is None or min(loss.also.values(), default=0) > 0, "loss.also", "weights above 0"),
        (len(set(several)) == len(several) > 0, "loss.directions", "one or more, once each"),
        (min(dims, default=0) >= 1 and len(set(dims)) == len(dims), "loss.dims", "numbers of 1 or more, once each"),
        (weights is None or loss.dims is not None, "loss.dim_weights", "loss.dims beside it"),
        (weights is None or len(weights) == len(dims), "loss.dim_weights", "one weight for each of loss.dims"),
        (weights is None or min(weights, default=0) > 0, "loss.dim_weights", "weights above 0"),
        (loss.strength >= 0, "loss.strength", "0 or more"),
        (0 <= loss.positive_prior < 1, "loss.positive_prior", "a probability from 0 to below 1"),
        (0 <= loss.smoothing < 1, "loss.smoothing", "a share from 0 to below 1"),
        (0 < loss.share <= 1, "loss.share", "a share above 0, at most 1"),
        (loss.teacher_temperature is None or loss.teacher_temperature > 0, "loss.teacher_temperature", "above 0"),
    ]


def _mixture_rules(mixture: MixtureConfig) -> list[tuple[bool, str, str]]:
    known = typing.get_args(LossName)
    one = mixture.one_source is not False
    return [
        (mixture.weights is None or min(mixture.weights.values(), default=0) > 0, "mixture.weights", "weights above 0"),
        (mixture.temperature is None or mixture.temperature > 0, "mixture.temperature", "above 0"),
        (mixture.temperature is None or mixture.weights is None, "mixture.temperature", "no mixture.weights beside it"),
        (
            set((mixture.losses or {}).values()) <= set(known),
            "mixture.losses",
            f"SOURCE:NAME,... with names of {', '.join(known)}",
        ),
        (one or not mixture.losses, "mixture.losses", "mixture.one_source (a batch has one loss)"),
        (one or not mixture.loss_temperatures, "mixture.loss_temperatures", "mixture.one_source (a batch has one)"),
        (min((mixture.loss_temperatures or {"": 1}).values()) > 0, "mixture.loss_temperatures", "above 0"),
    ]


def resolve(config: Config, *, is_static: bool, pairs: int, precision: Precision = "float32", is_fresh: bool = False) -> Config:
    """Fill in what depends on the kind of encoder, the number of pairs and the device (`precision`, what auto means there); every other None is chosen where it is read.

    A table takes the largest power of two up to an eighth of the pairs, from 32 to 2048: a few thousand pairs want more steps, not more
    negatives. `is_fresh` is of small image towers, which learn from nothing.
    """
    batch_size = min(2048, max(32, 1 << max(0, (pairs // 8).bit_length() - 1))) if is_static else 256 if is_fresh else 64
    rate = 0.1 if is_static else 1e-3 if is_fresh else 2e-4 if config.lora.rank else 2e-5
    return replace(
        config,
        batch_size=config.batch_size or batch_size,
        compute=replace(config.compute, precision="float32" if is_static else precision),
        learning_rate=config.learning_rate or rate,
    )


def config_from_json(value: dict[str, Any]) -> Config:
    """The inverse of `Config.to_json`."""
    return _from_json(Config, value)


def _from_json(kind: Any, value: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            name: _from_json(hints[name], found)
            if is_dataclass(hints[name])
            else tuple(found)
            if isinstance(found, list)
            else found
            for name, found in value.items()
        }
    )


def _walk(config: Any, prefix: str) -> Iterable[Setting]:
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from _walk(value, f"{prefix}{item.name}.")
        else:
            yield Setting(prefix + item.name, value, item.metadata["meaning"])


def _changed(config: Any, path: list[str], text: str, name: str) -> Any:
    hints = typing.get_type_hints(type(config))
    if path[0] not in hints or (len(path) == 1) == is_dataclass(hints.get(path[0])):
        raise _unknown(name)
    if len(path) > 1:
        value = _changed(getattr(config, path[0]), path[1:], text, name)
    else:
        value = _read(text, hints[path[0]], name)
    return replace(config, **{path[0]: value})


def _read(text: str, hint: Any, name: str) -> Any:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if type(None) in kinds and text.lower() in ("none", "null", "auto"):
        return None
    kind = next(k for k in kinds if k is not type(None))
    if kind is bool and text.lower() in ("true", "false", "yes", "no", "1", "0"):
        return text.lower() in ("true", "yes", "1")
    if kind is str:
        return text
    if typing.get_origin(kind) is Literal:
        if text in typing.get_args(kind):
            return text
        raise BadConfig(f"{name}={text}: expected one of {', '.join(typing.get_args(kind))}.")
    if typing.get_origin(kind) is tuple:
        return tuple(_read(part.strip(), typing.get_args(kind)[0], name) for part in text.split(","))
    if typing.get_origin(kind) is dict:
        return _read_mapping(text, typing.get_args(kind)[1], name)
    if kind in (int, float):
        try:
            number = kind(text.replace("_", ""))
        except ValueError:
            pass
        else:
            if math.isfinite(number):
                return number
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
    raise BadConfig(f"{name}={text}: expected {wanted}.")


def _read_mapping(text: str, hint: Any, name: str) -> dict[str, Any]:
    """`a:2,b:1` as a dictionary, or a JSON object; what holds commas or colons is best written in a file (`--config FILE`)."""
    found: dict[str, Any] = {}
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadConfig(f"{name}={text}: this is no JSON object ({error}).") from None
        return {str(key): _read(str(value), hint, f"{name}.{key}") for key, value in told.items()}
    for part in text.split(","):
        key, colon, value = part.rpartition(":") if hint is float else part.partition(":")
        if not colon or not key.strip():
            raise BadConfig(f"{name}={text}: expected SOURCE:VALUE,... as in a:2,b:1.")
        if key.strip() in found:
            raise BadConfig(f"{name}={text}: {key.strip()} is there twice. Give each once.")
        found[key.strip()] = _read(value if hint is str else value.strip(), hint, name)
    return found


def _unknown(name: str) -> BadConfig:
    known = [setting.name for setting in describe_config()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    near += [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2] and k not in near]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
    return BadConfig(f"{name}: there is no such setting. {hint} All of them: nearfar train --print-config.")

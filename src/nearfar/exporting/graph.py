"""An encoder as one ONNX graph: token ids and mask in, pooled unit rows out, for any batch and length.

Laid out as sentence-transformers 6.2 looks for it (`onnx/model.onnx` beside modules.json and the tokenizer); int8 is onnxruntime's dynamic
quantization, one scale per column of a matrix.
"""

from __future__ import annotations

import copy
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar.encoders import AnyEncoder, Dense, StaticEncoder, TransformerEncoder, TwoTowerEncoder
from nearfar.encoders.adapt import cut_rows, rebuild
from nearfar.encoders.pooling import PoolingMode, pool
from nearfar.errors import BadInput, Missing
from nearfar.exporting.card import card_text
from nearfar.exporting.folder import keep_dim, refuse_images, save_into
from nearfar.exporting.origin import read_origin
from nearfar.exporting.parity import TOLERANCE, both_rows, check_equal, cosines
from nearfar.exporting.record import Exported, Quantized, check_out, shown_name, write_record
from nearfar.exporting.runtime import GRAPH, OnnxModel
from nearfar.exporting.samples import SAMPLES
from nearfar.files import atomic_folder
from nearfar.types import Progress, silent

OnnxKind = Literal["onnx", "onnx-int8"]
LOW_COSINE = 0.95
"""Below it, the smallest cosine of an int8 export is a warning."""
_BIG = 1_800_000_000
"""Bytes of weights from which a graph keeps them in a file of their own: one file of ONNX holds 2 GB at most."""
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def export_onnx(
    encoder: AnyEncoder,
    out: Path | str,
    *,
    name: str | Path,
    kind: OnnxKind = "onnx",
    dim: int | None = None,
    language: str | None = None,
    texts: Sequence[str] = SAMPLES,
    progress: Progress = silent,
) -> Exported:
    """Write `out`: `onnx/model.onnx`, the tokenizer, configurations, a card and `export.json`, whole or not at all.

    The graph is run by onnxruntime on `texts`, each alone and all in one padded batch, and compared with the encoder; int8 is made of
    the graph that agrees, and its cosines are measured. `dim` keeps that many dimensions and makes the rows unit.
    Raises `Unfaithful` where any number differs by more than 1e-4, `BadInput` where `out` holds something else or the model cannot be
    written, `Missing` where a package is not there.
    """
    out = Path(out)
    refuse_images(encoder, name)
    check_out(out)
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise Missing(f"{package}, which ONNX export needs, is not installed. Install it: pip install 'nearfar[onnx]'.")
    if isinstance(encoder, TwoTowerEncoder):
        raise BadInput(
            f"{name}: this model has two towers, and a graph holds one encoder. Export it with --to sentence-transformers."
        )
    assert isinstance(encoder, (StaticEncoder, TransformerEncoder))
    folder, cut = keep_dim(encoder, dim), _cut(encoder, dim)
    steps = 3 if kind == "onnx" else 5
    progress("export", 0, steps)
    with atomic_folder(out) as target:
        _lay_out(folder, target)
        graph = target / GRAPH
        big = write_graph(cut, graph)
        progress("export", 1, steps)
        card = card_text(cut, shown_name(name), read_origin(name), language=language, dim=dim, load=out.name, onnx=kind)
        (target / "README.md").write_text(card, encoding="utf-8")
        facts = _facts(cut, name, kind, dim)
        write_record(target, facts)
        difference = check_equal(both_rows(cut, _runner(target), texts), "the ONNX graph")
        progress("export", 2, steps)
        facts["parity"] = {"largest_difference": difference, "tolerance": TOLERANCE, "texts": len(texts)}
        quantized = None
        if kind == "onnx-int8":
            quantize(graph, big=big)
            progress("export", 3, steps)
            write_record(target, facts)
            found = cosines(both_rows(cut, _runner(target), texts))
            quantized = Quantized(float(found.min()), float(found.mean()))
            facts["int8"] = vars(quantized)
            progress("export", 4, steps)
        size = write_record(target, facts, _PACKAGES)
    progress("export", steps, steps)
    return Exported(out, kind, cut.dim, difference, len(texts), size, quantized)


class _TransformerGraph(nn.Module):
    """The encoder as a function of ids and mask, filled on the right."""

    def __init__(self, encoder: TransformerEncoder) -> None:
        super().__init__()
        # a copy: its attention is written out in plain operations, and exporters leave traces
        self.model = copy.deepcopy(encoder.model).float().eval()
        self.model.set_attn_implementation("eager")
        self.heads = copy.deepcopy(encoder.heads).float().eval()
        self.pooling: PoolingMode = encoder.pooling
        self.cut, self.normalize = encoder.truncate_dim, encoder.normalize
        self.options = {"use_cache": False} if "use_cache" in inspect.signature(encoder.model.forward).parameters else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lengths = attention_mask.sum(dim=1)
        # a text without tokens attends to one filler, since attention over nothing is not a number; its row is zero
        real = attention_mask.bool() | (torch.arange(input_ids.shape[1], device=input_ids.device) == 0)[None]
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.model(input_ids=input_ids, attention_mask=real.long(), **types, **self.options).last_hidden_state
        rows = pool(hidden, lengths, real, self.pooling) * (lengths > 0).to(hidden.dtype)[:, None]
        for head in self.heads:
            rows = head(rows)
        rows = rows if self.cut is None else rows[:, : self.cut]
        return hidden, F.normalize(rows, dim=-1) if self.normalize else rows


class _TableGraph(nn.Module):
    """The mean of the table's rows of a text's tokens."""

    def __init__(self, encoder: StaticEncoder) -> None:
        super().__init__()
        self.weight = nn.Parameter(encoder.weight.detach().clone())
        self.normalize = encoder.normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask.to(self.weight.dtype)
        sums = torch.bmm(real[:, None, :], F.embedding(input_ids, self.weight))[:, 0]
        rows = sums / real.sum(dim=1, keepdim=True).clamp(min=1)
        return F.normalize(rows, dim=-1) if self.normalize else rows


def write_graph(encoder: StaticEncoder | TransformerEncoder, path: Path) -> bool:
    """Write the graph of an encoder; True where its weights lie in a file beside it. Raises `BadInput` where torch cannot write it.

    Inputs `input_ids`, `attention_mask` and (where the model takes them) `token_type_ids`, all int64 [batch, tokens]; outputs
    `sentence_embedding` [batch, d] and, of a transformer, `last_hidden_state` [batch, tokens, width].
    """
    names, outputs = ["input_ids", "attention_mask"], ["sentence_embedding"]
    if isinstance(encoder, StaticEncoder):
        graph: nn.Module = _TableGraph(encoder)
        longest = encoder.max_length or 1 << 20
    else:
        graph = _TransformerGraph(encoder)
        names += ["token_type_ids"] if takes_types(encoder) else []
        outputs = ["last_hidden_state", "sentence_embedding"]
        longest = encoder.max_length
    graph = graph.cpu().eval()
    ids = torch.zeros(2, min(7, longest), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    rows, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=1, max=longest)
    big = sum(p.numel() * p.element_size() for p in graph.parameters()) > _BIG
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph,
                (ids, mask, torch.zeros_like(ids))[: len(names)],
                path,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=({0: rows, 1: tokens},) * len(names),
                dynamo=True,
                external_data=big,
                verbose=False,
            )
    except Exception as error:  # the exporter fails in as many ways as there are models
        said = str(error).strip() or repr(error)
        raise BadInput(
            f"{type(getattr(encoder, 'model', encoder)).__name__}: torch cannot write this model as an ONNX graph "
            f"({said.splitlines()[0][:200]}). Export it with --to sentence-transformers."
        ) from error
    _check_free(path)
    return big


def _check_free(path: Path) -> None:
    """Where a model's code compares a size with a number, the exporter fixes that size without a word: such a graph is refused."""
    import onnx

    for given in onnx.load(path, load_external_data=False).graph.input:
        sizes = given.type.tensor_type.shape.dim
        fixed = [str(size.dim_value) for size in sizes if not size.dim_param]
        if fixed:
            raise BadInput(
                f"torch made a graph whose {given.name} takes {' and '.join(fixed)} only, where batch and length must be free: this "
                "model's code depends on them. Export it with --to sentence-transformers."
            )


def quantize(path: Path, *, big: bool = False) -> None:
    """Turn a graph's matrices and tables into int8, in place: activations are measured when it runs (dynamic quantization)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=path.parent) as place, _quiet():
        made = Path(place) / path.name
        quantize_dynamic(path, made, weight_type=QuantType.QInt8, per_channel=True, use_external_data_format=big)
        for old in path.parent.glob(f"{path.name}*"):
            old.unlink()
        for new in Path(place).iterdir():
            new.replace(path.parent / new.name)


def takes_types(encoder: TransformerEncoder) -> bool:
    """Whether the model is given `token_type_ids`."""
    asked = inspect.signature(encoder.model.forward).parameters
    return "token_type_ids" in asked and "token_type_ids" in encoder.hf_tokenizer.model_input_names


def _cut(encoder: StaticEncoder | TransformerEncoder, dim: int | None) -> StaticEncoder | TransformerEncoder:
    """The encoder of the graph: rows cut by taking their first numbers, which int8 leaves exact where it would round a matrix."""
    if dim is None:
        return encoder
    cut = cut_rows(encoder, dim)
    if isinstance(cut, TransformerEncoder):
        return rebuild(cut, [head for head in cut.heads if isinstance(head, Dense)], cut.truncate_dim, normalize=True)
    return StaticEncoder(cut.weight, cut.tokenizer, max_length=cut.max_length, prompts=cut.prompts)


def _lay_out(encoder: AnyEncoder, target: Path) -> None:
    """The folder of the model without the transformer's own weights, which the graph holds; its tokenizer cuts as the model does."""
    save_into(encoder, target)
    for weights in [*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")]:
        weights.unlink()
    assert isinstance(encoder, (StaticEncoder, TransformerEncoder))
    encoder.tokenizer.save(str(target / "tokenizer.json"))


def _facts(encoder: StaticEncoder | TransformerEncoder, name: str | Path, kind: OnnxKind, dim: int | None) -> dict[str, object]:
    is_table = isinstance(encoder, StaticEncoder)
    return {
        "to": kind,
        "source": shown_name(name),
        "model": encoder.fingerprint(),
        "dim": encoder.dim,
        "truncate_dim": dim,
        "normalize": encoder.normalize,
        "max_length": encoder.max_length,
        "prompts": {"query": encoder.prompts.query, "document": encoder.prompts.document},
        "special_tokens": not is_table,
        "pad_id": 0 if is_table else int(encoder.hf_tokenizer.pad_token_id or 0),  # pyright: ignore[reportArgumentType]
    }


def _runner(folder: Path):
    model = OnnxModel(folder)
    return lambda texts, role, at_once: model.encode(texts, role=role, batch_size=at_once)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' talk about themselves from the user: what is wrong is raised, and what is written is compared."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root", "")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""An exported ONNX graph as an encoder: texts in, rows out, with onnxruntime, tokenizers and numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import BadConfig, BadInput, Damaged, Missing
from nearfar.exporting.record import read_record
from nearfar.files import hash_file

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfar.types import Role

GRAPH = "onnx/model.onnx"
"""Where a folder keeps its graph: the first place sentence-transformers' backend="onnx" looks in."""


class OnnxModel:
    """The rows of an ONNX export. Loads no torch.

    model = OnnxModel("folder")
    rows = model.encode(["a text", "another"], role="query")
    """

    def __init__(self, folder: Path | str, *, threads: int | None = None) -> None:
        """Open a folder written by `nearfar export --to onnx` or `onnx-int8`; `threads` (default: onnxruntime's choice).

        Raises `BadInput` where it is none, `Damaged` where graph or tokenizer are not what was written, `Missing`.
        """
        folder = Path(folder)
        self.record = read_record(folder)
        if GRAPH not in self.record["files"]:
            raise BadInput(f"{folder}: this export holds no graph (it is for {self.record['to']}). Export with --to onnx.")
        for name, content in self.record["files"].items():
            if name.startswith("onnx/") or name == "tokenizer.json":
                _check(folder / name, content)
        self._session = open_session(folder / GRAPH, threads)
        self._inputs = [found.name for found in self._session.get_inputs()]
        self._tokenizer = _tokenizer(folder / "tokenizer.json")

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return int(self.record["dim"])

    def encode(self, texts: Sequence[str], *, role: Role = "document", batch_size: int = 32) -> Float[np.ndarray, "n d"]:
        """Rows [n, d] float32 in the order of `texts`, `batch_size` of like length at a time. `BadInput` where one is not text."""
        if batch_size < 1:
            raise BadConfig(f"batch_size={batch_size}: a batch holds at least one text. Use 1 or more.")
        prompt = self.record["prompts"].get(role)
        if prompt is None:
            raise BadInput(f"role={role!r}: a text is used as 'query' or as 'document'. Pass one of the two.")
        if isinstance(texts, str):
            raise BadInput(f"texts: found one string ({texts[:40]!r}). Pass a list of strings: [text].")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadInput(f"texts[{number}]: found {type(text).__name__}, not text. Pass strings only.")
        whole = [prompt + text for text in texts]
        found = self._tokenizer.encode_batch_fast(whole, add_special_tokens=bool(self.record["special_tokens"]))
        ids = [encoding.ids for encoding in found]
        rows = np.empty((len(ids), self.dim), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows[chosen] = self._run([ids[i] for i in chosen])
        return rows

    def _run(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        lengths = np.array([len(ids) for ids in batch])
        real = np.arange(max(int(lengths.max()), 1)) < lengths[:, None]
        ids = np.full(real.shape, int(self.record["pad_id"]), np.int64)
        ids[real] = [number for row in batch for number in row]
        feeds = {"input_ids": ids, "attention_mask": real.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
        try:
            return self._session.run(["sentence_embedding"], {name: feeds[name] for name in self._inputs})[0]
        except Exception as error:  # onnxruntime's own exceptions share no base but this
            first = str(error).strip().splitlines()[0]
            raise BadInput(
                f"onnxruntime cannot run the graph on {len(batch)} texts of up to {int(lengths.max())} tokens ({first}). Give fewer at a time "
                "(batch_size), or export the model again."
            ) from error


def open_session(path: Path, threads: int | None = None) -> Any:
    """An onnxruntime session on the processor. Raises `Missing` without onnxruntime, `Damaged` where the graph cannot be read."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Missing(
            "onnxruntime, which runs ONNX graphs, is not installed. Install it: pip install 'nearfar[onnx]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        first = str(error).strip().splitlines()[0]
        raise Damaged(f"{path}: onnxruntime cannot open the graph ({first}). Export it again.") from error


def _check(path: Path, content: str) -> None:
    if not path.exists() or hash_file(path) != content:
        raise Damaged(f"{path}: the file is missing or not what was exported. Export the model again.")


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))

"""A stronger model's second look: a bi-encoder by dot products, or a cross-encoder that reads query and document together.

A teacher is asked for (query, document) pairs by number, and remembers: in the cache, by the hash of both texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from nearfar.encoders.folder import is_cross_encoder
from nearfar.encoders.load import VOCABULARIES, load_encoder, why_not_opened
from nearfar.encoders.precision import Precision
from nearfar.encoders.tokens import cut_padded
from nearfar.errors import BadInput, Damaged
from nearfar.files import hash_folder
from nearfar.mining.cache import Cache, digest_of, text_keys
from nearfar.mining.rows import cached_rows, similarities
from nearfar.types import Encoder, Progress, silent

BATCH_TOKENS = 4_096
"""Tokens (padding included) that a cross-encoder reads at once."""
LONGEST = 512
"""Tokens of a query and document together, where a cross-encoder says nothing of its own."""


class PairScorer(Protocol):
    """A model that scores a query and a document read together: larger is more relevant."""

    def fingerprint(self) -> str:
        """`sha256:<hex>` over all that decides its scores."""
        ...

    def score(self, queries: Sequence[str], documents: Sequence[str], progress: Progress = silent) -> Float[np.ndarray, " n"]:
        """One float32 score for each pair of texts, in order."""
        ...


class Teacher(Protocol):
    """Scores of queries and documents of one mining, by number."""

    def ask(
        self, queries: Int[np.ndarray, " n"], documents: Int[np.ndarray, " n"], progress: Progress = silent
    ) -> Float[np.ndarray, " n"]:
        """The teacher's score of each (query, document)."""
        ...


class CrossEncoder:
    """A transformer with one output that reads `query [SEP] document`; scores are its logits as they come. Nothing is fetched."""

    def __init__(self, folder: Path | str, *, max_length: int | None = None) -> None:
        """Open a folder that transformers or sentence-transformers' CrossEncoder saved.

        `max_length` in tokens of both texts (default: as the folder says, 512 at most). Raises `BadInput` where the folder holds another kind
        of model or more than one output, `Damaged` where files are torn.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        self.folder = Path(folder)
        if not is_cross_encoder(self.folder):
            raise BadInput(
                f"{folder}: this is no cross-encoder (config.json names no ...ForSequenceClassification). Give a folder saved by "
                "transformers or CrossEncoder, or a bi-encoder by its name."
            )
        if not any((self.folder / name).exists() for name in VOCABULARIES):
            raise Damaged(f"{folder}: there is no tokenizer (tokenizer.json). Fetch or save the whole folder again.")
        logging.disable_progress_bar()
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            self.model: Any = AutoModelForSequenceClassification.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            ).eval()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, use_fast=True)
        except Exception as error:  # OSError, ValueError, KeyError, SafetensorError, ...: by what is torn
            why = why_not_opened(error, AutoModelForSequenceClassification, self.folder)
            raise Damaged(
                f"{folder}: the cross-encoder cannot be opened ({why}). Fetch or save the whole folder again."
            ) from error
        finally:
            logging.set_verbosity(before)
        outputs = self.model.config.num_labels
        if outputs != 1:
            raise BadInput(
                f"{folder}: it has {outputs} outputs, and a teacher says one number: how relevant. Give a model of one."
            )
        told = [self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", LONGEST)]
        self.max_length = max_length or min(LONGEST, *(int(length) for length in told if 0 < length < 1e9))

    def fingerprint(self) -> str:
        """Over every file of the folder, and the length it is cut to."""
        return f"{hash_folder(self.folder)}-{self.max_length}"

    def score(self, queries: Sequence[str], documents: Sequence[str], progress: Progress = silent) -> np.ndarray:
        """The logit of each pair of texts, float32; the longer text of a pair is cut first where both do not fit."""
        import torch

        tokens = self.tokenizer(
            list(queries), list(documents), truncation="longest_first", max_length=self.max_length, padding=False
        )
        lengths = np.array([len(ids) for ids in tokens["input_ids"]], dtype=np.int64)
        found = np.empty(len(lengths), dtype=np.float32)
        done = 0
        device = self.model.device
        with torch.inference_mode():
            for rows in cut_padded(lengths, BATCH_TOKENS):
                part = {name: [values[i] for i in rows.tolist()] for name, values in tokens.items()}
                padded = self.tokenizer.pad(part, return_tensors="pt").to(device)
                found[rows] = self.model(**padded).logits[:, 0].float().cpu().numpy()
                done += len(rows)
                progress("teacher", done, len(lengths))
        return found


def open_teacher(name: str | Path, progress: Progress = silent) -> Encoder | PairScorer:
    """A cross-encoder where `name` is a folder of one, else what `load_encoder` opens. Raises as these."""
    return CrossEncoder(name) if is_cross_encoder(name) else load_encoder(name, progress=progress)


class RowTeacher:
    """A bi-encoder as a teacher: all texts are embedded once, scores are dot products."""

    def __init__(
        self,
        encoder: Encoder,
        queries: Sequence[str],
        documents: Sequence[str],
        cache: Cache,
        *,
        precision: Precision,
        progress: Progress,
    ) -> None:
        def rows(texts: Sequence[str], role: Any) -> np.ndarray:
            stage = "teacher queries" if role == "query" else "teacher documents"
            return cached_rows(encoder, texts, role, cache, precision=precision, progress=progress, stage=stage)

        self._queries, self._documents = rows(queries, "query"), rows(documents, "document")

    def ask(self, queries: np.ndarray, documents: np.ndarray, progress: Progress = silent) -> np.ndarray:  # noqa: ARG002
        """Dot products."""
        return similarities(self._queries, self._documents, queries, documents)


class PairTeacher:
    """A model of pairs as a teacher: asked once for each pair, block by block, each kept at once."""

    def __init__(self, model: PairScorer, queries: Sequence[str], documents: Sequence[str], cache: Cache) -> None:
        self._model, self._queries, self._documents, self._cache = model, queries, documents, cache
        self._keys = tuple(text_keys(texts) for texts in (queries, documents))
        self._shelf = f"scores-{digest_of(model.fingerprint())}"
        self._known: dict[bytes, float] = {}
        for keys, rows in cache.blocks(self._shelf):
            self._known.update(zip(map(bytes, keys), rows.tolist(), strict=True))

    def ask(self, queries: np.ndarray, documents: np.ndarray, progress: Progress = silent) -> np.ndarray:
        """Logits, from what is remembered where they are there."""
        keys = np.concatenate([self._keys[0][queries], self._keys[1][documents]], axis=1)
        wanted = [bytes(key) for key in keys]
        first = {key: i for i, key in reversed(list(enumerate(wanted))) if key not in self._known}
        new = np.array(sorted(first.values()), dtype=np.int64)
        size = 2048
        for start in range(0, len(new), size):
            rows = new[start : start + size]
            asked = [self._queries[int(q)] for q in queries[rows]]
            told = [self._documents[int(d)] for d in documents[rows]]
            scores = self._model.score(asked, told, progress).astype(np.float32)
            self._cache.keep_block(self._shelf, keys[rows], scores)
            self._known.update(zip((wanted[i] for i in rows), scores.tolist(), strict=True))
        return np.array([self._known[key] for key in wanted], dtype=np.float32)


def teacher_over(
    model: Encoder | PairScorer,
    queries: Sequence[str],
    documents: Sequence[str],
    cache: Cache,
    *,
    precision: Precision = "auto",
    progress: Progress = silent,
) -> Teacher:
    """The teacher of these texts: a bi-encoder embeds them now, a model of pairs is asked later."""
    if isinstance(model, Encoder):
        return RowTeacher(model, queries, documents, cache, precision=precision, progress=progress)
    return PairTeacher(model, queries, documents, cache)

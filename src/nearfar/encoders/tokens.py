"""Tokens of many texts, ragged: one flat array of ids and where each text begins. Nothing is padded until a model needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from nearfar.errors import BadInput
from nearfar.types import Inputs, Picture, Role

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 4096
"""Texts tokenized at a time: bounds the memory of the tokenizer's own result objects."""


class Prompts(NamedTuple):
    """What is put before each text, by what the text is used as. Empty by default."""

    query: str = ""
    document: str = ""

    def of(self, role: Role) -> str:
        """The prompt of a role. Raises `BadInput` where the role is neither "query" nor "document"."""
        if role not in ("query", "document"):
            raise BadInput(f"role={role!r}: a text is used as 'query' or as 'document'. Pass one of the two.")
        return self.query if role == "query" else self.document


NO_PROMPTS = Prompts()
"""Texts go in as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The token ids of n texts: text i is `ids[offsets[i]:offsets[i + 1]]`.

    `ids` [t] int32, all texts end to end; `offsets` [n + 1] int64, from 0 to t, never falling. `towers` [n] uint8 is the number of
    the tower each text goes through, where an encoder has two (None: it has one).
    """

    ids: np.ndarray
    offsets: np.ndarray
    towers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, [n] int64."""
        return np.diff(self.offsets)

    def select(self, rows: np.ndarray) -> Self:
        """The texts of these row numbers, in this order; rows may repeat. O(tokens selected), no Python loop."""
        rows = np.asarray(rows)
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = _offsets(lengths)
        # where each selected token lies: its place in the result, moved by how far its text moved
        places = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
        return type(self)(self.ids[places], offsets, None if self.towers is None else self.towers[rows])

    @classmethod
    def concat(cls, parts: Sequence[Tokens]) -> Self:
        """All texts of all parts, in order. No parts make no texts."""
        lengths = [part.lengths for part in parts]
        ids = [part.ids for part in parts]
        towers = [part.towers for part in parts if part.towers is not None]
        assert len(towers) in (0, len(parts)), "texts for one tower and for two do not go together"
        return cls(
            np.concatenate(ids) if ids else np.zeros(0, np.int32),
            _offsets(np.concatenate(lengths) if lengths else np.zeros(0, np.int64)),
            np.concatenate(towers) if towers else None,
        )

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Self:
        """Tokens from one list of ids per text."""
        lengths = np.fromiter((len(ids) for ids in lists), np.int64, len(lists))
        offsets = _offsets(lengths)
        return cls(np.fromiter(chain.from_iterable(lists), np.int32, int(offsets[-1])), offsets)


def lengths_of(inputs: Inputs) -> np.ndarray:
    """Tokens of each item [n], or ones where items have no length."""
    return np.asarray(getattr(inputs, "lengths", np.ones(len(inputs), np.int64)))


def cut_padded(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row numbers by falling length, cut so that rows times the longest of them stays within `budget` (one row at least)."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(int(lengths[order[start]]), 1))
        yield order[start : start + size]
        start += size


def tokenize(
    tokenizer: Tokenizer, items: Sequence[str], *, prompt: str = "", special: bool, numbers: Sequence[int] | None = None
) -> Tokens:
    """Tokens of texts, each with `prompt` before it, truncated as the tokenizer is set; `special` adds [CLS], [SEP] and such.

    Raises `BadInput` where `items` is one string, or where an item is not text, naming its number (of `numbers`, if given).
    """
    if isinstance(items, str):
        raise BadInput(f"texts: found one string ({items[:40]!r}). Pass a list of strings: [text].")
    refuse_pictures(items)
    parts: list[Tokens] = []
    for start in range(0, len(items), CHUNK):
        texts = [prompt + item if prompt and isinstance(item, str) else item for item in items[start : start + CHUNK]]
        try:
            found = tokenizer.encode_batch_fast(texts, add_special_tokens=special)
        except (TypeError, UnicodeError) as error:
            raise _explain(texts, (numbers or range(len(items)))[start : start + CHUNK], error) from error
        parts.append(Tokens.of([encoding.ids for encoding in found]))
    return Tokens.concat(parts)


def refuse_pictures(items: Sequence[object]) -> None:
    """Raise `BadInput` naming the first picture among what should be texts."""
    picture = next((item for item in items if isinstance(item, Picture)), None)
    if picture is not None:
        raise BadInput(
            f"{picture}: a picture, and this encoder reads text. Choose one with an image tower for pairs of pictures."
        )


def _explain(texts: Sequence[object], numbers: Sequence[int], error: Exception) -> BadInput:
    for number, text in zip(numbers, texts, strict=True):
        if not isinstance(text, str):
            return BadInput(f"texts[{number}]: found {type(text).__name__}, not text. Pass strings only.")
        try:
            text.encode("utf-8")
        except UnicodeError:
            return BadInput(
                f"texts[{number}]: {text[:40]!r} holds a lone surrogate, which is not text. "
                "Read the file as UTF-8 with errors='replace'."
            )
    return BadInput(
        f"texts[{numbers[0]}] to texts[{numbers[-1]}]: the tokenizer refused them ({error}). Pass a list of strings."
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets

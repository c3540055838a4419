"""A quicker way through BERT's tokenizer for plain ASCII: each distinct word is split into pieces once and remembered.

BERT's tokenizer (Devlin 2019) lowercases, splits at white space and around every punctuation mark, and then splits each word alone, so
the pieces of a word never depend on its neighbours. Texts that are not plain ASCII, or name a special token, go the usual way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from nearfar.encoders.tokens import CHUNK, Tokens, tokenize

MOST_WORDS = 1_000_000
"""Distinct words remembered; beyond it all are forgotten."""

_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_PLAIN = re.compile(r"[\t\n\r -~]*")


class WordTokenizer:
    """Tokens of texts without special tokens, equal to the tokenizer's own. Make one with `word_tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, length: int | None) -> None:
        """Keep the tokenizer for what is not plain, and a copy without truncation for words; texts are cut to `length` tokens."""
        self._whole, self._length = tokenizer, length
        self._alone = Tokenizer.from_str(tokenizer.to_str())
        self._alone.no_truncation()
        names = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        self._named = re.compile("|".join(names)) if names else None
        self._pieces: dict[str, tuple[int, ...]] = {}

    def __call__(self, texts: Sequence[str], prompt: str = "") -> Tokens:
        """The tokens of texts, each with `prompt` before it. Raises `BadInput` where an item is not text."""
        parts = [self._chunk(texts[start : start + CHUNK], prompt, start) for start in range(0, len(texts), CHUNK)]
        return Tokens.concat(parts)

    def _chunk(self, texts: Sequence[str], prompt: str, start: int) -> Tokens:
        found = [self._words(prompt + text) if isinstance(text, str) else None for text in texts]
        new = set(chain.from_iterable(words for words in found if words)).difference(self._pieces)
        if len(self._pieces) + len(new) > MOST_WORDS:
            self._pieces.clear()
            new = set(chain.from_iterable(words for words in found if words))
        ordered = list(new)
        for word, encoding in zip(ordered, self._alone.encode_batch_fast(ordered, add_special_tokens=False), strict=True):
            self._pieces[word] = tuple(encoding.ids)
        others = [number for number, words in enumerate(found) if words is None]
        pieces, length = self._pieces.__getitem__, self._length
        lists = [list(chain.from_iterable(map(pieces, words)))[:length] if words else [] for words in found]
        made = Tokens.of(lists)
        if not others:
            return made
        usual = tokenize(
            self._whole, [texts[n] for n in others], prompt=prompt, special=False, numbers=[start + n for n in others]
        )
        rows = np.arange(len(texts))
        rows[others] = len(texts) + np.arange(len(others))
        return Tokens.concat([made, usual]).select(rows)

    def _words(self, text: str) -> list[str] | None:
        """The words of a text, None where it is to go the usual way."""
        if not _PLAIN.fullmatch(text) or (self._named is not None and self._named.search(text)):
            return None
        # a word has at least one token: more words than the length asks for cannot matter
        return _WORD.findall(text.lower())[: self._length]


def word_tokenizer(tokenizer: Tokenizer) -> WordTokenizer | None:
    """The quicker way, where the tokenizer is BERT's in every part that decides about ASCII; None otherwise."""
    told = json.loads(tokenizer.to_str())
    normalizer, cutter, model = (told.get(part) or {} for part in ("normalizer", "pre_tokenizer", "model"))
    truncation = told.get("truncation")
    fits = (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text")
        and normalizer.get("lowercase")
        and cutter.get("type") == "BertPreTokenizer"
        and model.get("type") == "WordPiece"
        and all(not token["normalized"] for token in told.get("added_tokens", []))
        and (truncation is None or (truncation["direction"] == "Right" and not told.get("padding")))
    )
    return WordTokenizer(tokenizer, truncation["max_length"] if truncation else None) if fits else None

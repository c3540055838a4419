"""What is small enough for tests: a random two-layer BERT over a WordPiece vocabulary of about 500 tokens, and pairs to learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from nearfar.types import Pair

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_TEXT = """
the a of to and in is for with on as by this that it from return returns given value values list dict set string
file path open read write close line lines number integer float sum mean sort order key keys index search query
document text word words token model train test loss near far vector row column matrix table data name type class
function method module package error raise call object item items first last new old true false none all any not
cat dog bird fish tree river mountain house car road city red green blue black white big small fast slow hot cold
one two three four five six seven eight nine ten zero left right up down start stop run walk eat drink sleep wake
"""

WORDS = tuple(_TEXT.split())
"""The whole words of the vocabulary (each is one token); every other text falls into letters and pairs of letters."""


def tiny_vocabulary(words: tuple[str, ...] = WORDS) -> list[str]:
    """Special tokens, then the words in order, then letters, digits and pairs of letters as word pieces: about 500 tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *(f"##{c}" for c in letters), *".,:;!?()[]_-'\"/"]
    pairs = [f"##{v}{c}" for v in "aeiou" for c in "bcdfghjklmnpqrstvwxyz"]
    suffixes = ["##ing", "##ed", "##er", "##ers", "##ly", "##tion", "##ment", "##ness", "##able", "##ity"]
    starts = [f"{c}{v}" for c in "bcdfghklmnprstvw" for v in "aeiou"]
    return list(dict.fromkeys([*SPECIAL, *words, *pieces, *pairs, *suffixes, *starts]))


def tiny_tokenizer(words: tuple[str, ...] = WORDS) -> Tokenizer:
    """A lower-casing BERT tokenizer over `tiny_vocabulary(words)`, with [CLS] and [SEP] as special tokens."""
    ids = {token: number for number, token in enumerate(tiny_vocabulary(words))}
    tokenizer = Tokenizer(WordPiece(vocab=ids, unk_token="[UNK]", continuing_subword_prefix="##"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer


def tiny_transformer(folder: Path, seed: int = 0, *, words: tuple[str, ...] = WORDS, dim: int = 32) -> Path:
    """Write a plain Hugging Face folder (no modules.json) of a random BERT and return it; the same seed, the same bytes.

    Two layers, two heads, rows of `dim` numbers, 64 positions. `load_encoder(folder)` reads it with mean pooling.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(words)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws from the global generator, and our draw replaces it
        model = BertModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": True,
                "model_max_length": 64,
                "unk_token": "[UNK]",
                "sep_token": "[SEP]",
                "pad_token": "[PAD]",
                "cls_token": "[CLS]",
                "mask_token": "[MASK]",
            },
            indent=2,
        )
        + "\n"
    )
    return folder


def tiny_pairs(count: int = 160, seed: int = 0) -> list[Pair]:
    """Query and positive share no word: words 2i and 2i + 1 mean the same. Nothing but training can find that out."""
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        half = rng.permutation(len(WORDS) // 2)[:3]
        found[" ".join(WORDS[2 * i] for i in half)] = " ".join(WORDS[2 * i + 1] for i in half)
    return [Pair(q, p) for q, p in found.items()]


class StoppedError(Exception):
    """What `stop_at` raises."""


def stop_at(step: int):
    """A progress that stops a run from without after this step of training."""

    def progress(stage, done, total, **facts):
        if stage == "train" and done == step:
            raise StoppedError

    return progress

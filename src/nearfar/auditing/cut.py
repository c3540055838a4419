"""Cut texts: documents longer than the model reads, and texts that were cut before they came into the file.

A limit shows as a heap: many different texts of one length, the longest that there is or far more than have a length near it, that end without the
mark that the others end with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nearfar.auditing.material import Material
from nearfar.data.text import agree, counted
from nearfar.metrics import share_interval
from nearfar.types import Finding

_END = re.compile(r"[.!?…:;)\]}\"'”’»。？！]\s*$")
HEAP = 10
"""Texts of one length make a heap from this number on,"""
STEEP = 5.0
"""where they are so many times as many as lengths near it have,"""
OPEN = 0.5
"""and so large a share of them ends without a mark."""
LEAST = {"characters": 64, "words": 20}
"""Shorter texts of one length are made so (codes, labels, filled-in templates), not cut."""
HEAPS = 3
READ = 2_048
"""Characters (some 512 tokens) beyond which most encoders read nothing: a cut there costs little."""
FLOOR = 0.002
"""Lower bound of the share from which a cut is a warning."""
TOKENS_PER_WORD = 1.3
USUAL_LENGTH = 512
SAMPLE = 500
"""Documents beyond the model's length whose two parts are compared."""


class Heap(NamedTuple):
    """Texts cut at `length` (of `unit`): their numbers among the texts, and how many of them lengths nearby explain."""

    unit: str
    length: int
    members: np.ndarray
    expected: float


def cut_heaps(texts: Sequence[str]) -> list[Heap]:
    """The heaps of texts cut at one length in characters or in words, the largest first, no text in two of them; at most `HEAPS`."""
    stripped = [text.strip() for text in texts]
    is_open = np.array([not _END.search(text) for text in stripped], bool)
    lengths = {
        "characters": np.array([len(text) for text in stripped], np.int64),
        "words": np.array([len(text.split()) for text in stripped], np.int64),
    }
    found: list[Heap] = []
    while len(found) < HEAPS:
        heaps = [heap for unit in lengths if (heap := _heap(unit, lengths[unit], is_open)) is not None]
        if not heaps:
            break
        best = max(heaps, key=lambda heap: len(heap.members) - heap.expected)
        is_open[best.members] = False
        if not _ends_alike([stripped[i] for i in best.members.tolist()]):
            found.append(best)
    return found


def _ends_alike(texts: Sequence[str]) -> bool:
    """Whether most texts end in one word: a template's last, where a cut falls anywhere."""
    return Counter(text.split()[-1] for text in texts).most_common(1)[0][1] > len(texts) / 2


def _heap(unit: str, lengths: np.ndarray, is_open: np.ndarray) -> Heap | None:
    """Among texts without an end: the length that most stand out from those near it. A cut may have been stripped of a space: up to 2 shorter count."""
    if not is_open.any():
        return None
    counts = np.bincount(lengths[is_open])
    closed = np.bincount(lengths[~is_open], minlength=len(counts))
    reach = 2 if unit == "characters" else 0
    best: Heap | None = None
    for length in np.argsort(-counts, kind="stable")[:20].tolist():
        if length < LEAST[unit] or counts[length] < HEAP:
            continue
        near = np.r_[counts[max(0, length - 12 - reach) : length - reach], counts[length + 1 : length + 13]]
        # nothing is longer than a limit that all were held to: the average beside it is that of the shorter side
        expected = float(near.sum() / max(len(near), 1)) if len(near) else 0.0
        members = np.flatnonzero(is_open & (lengths <= length) & (lengths >= length - reach))
        whole = counts[length] + closed[length]
        if counts[length] < STEEP * (expected + 1) or counts[length] < OPEN * whole:
            continue
        excess = len(members) - expected * (reach + 1)
        if best is None or excess > len(best.members) - best.expected:
            best = Heap(unit, length, members, expected * (reach + 1))
    return best


def check_cut(material: Material) -> list[Finding]:
    """`cut_in_file` (estimated: the heap less what lengths nearby explain), `cut_by_model` (counted, or by words where no model is given)."""
    found: list[Finding] = []
    if material.has_pictures:
        return found
    documents = material.documents.distinct
    for heap in cut_heaps(documents):
        count = max(0, round(len(heap.members) - heap.expected))
        share = share_interval(min(count, len(documents)), len(documents))
        rows = np.flatnonzero(np.isin(material.positives, heap.members)).tolist()
        beyond = heap.length > (READ if heap.unit == "characters" else READ // 5)
        found.append(
            Finding(
                "cut_in_file",
                "data",
                "info" if beyond or share.low < FLOOR else "warning",
                f"about {share.mean:.1%} [{share.low:.1%}, {share.high:.1%}] of the documents ({count:,} of {len(documents):,}) were cut at "
                f"{heap.length:,} {heap.unit} before they came here: they end in the middle"
                + (", beyond what most encoders read." if beyond else "."),
                count,
                len(documents),
                share.mean,
                "Make the file again from the whole texts, or in passages that end where a sentence does.",
                share.low,
                share.high,
                tuple(
                    item._replace(text="…" + material.pairs[row].positive.strip()[-60:])
                    for row, item in zip(rows, material.show(rows), strict=False)
                ),
            )
        )
    return found + _beyond_model(material)


def _beyond_model(material: Material) -> list[Finding]:
    documents = material.documents.distinct
    limit = getattr(material.encoder, "max_length", None)
    if material.encoder is not None and limit is None:
        return []
    if material.encoder is None:
        lengths = np.array([len(text.split()) * TOKENS_PER_WORD for text in documents])
        long = np.flatnonzero(lengths > USUAL_LENGTH)
        by = f"{USUAL_LENGTH} tokens, estimated as {TOKENS_PER_WORD} a word"
    else:
        lengths = _token_lengths(material, documents)
        long = np.flatnonzero(lengths > limit)
        by = f"the {limit} tokens that {material.model_name} reads"
    if not len(long):
        return []
    share = len(long) / len(documents)
    better = _tail_matches(material, long, lengths, limit) if material.encoder is not None and limit else None
    told, harm = "", False
    if better is not None:
        told = f" In {better.mean:.0%} [{better.low:.0%}, {better.high:.0%}] of them what is cut off matches the query better than what is kept."
        harm = better.low * share > 0.1 and better.low > 0.5
    rows = np.flatnonzero(np.isin(material.positives, long)).tolist()
    return [
        Finding(
            "cut_by_model",
            "model",
            "warning" if harm else "info",
            f"{counted(len(long), 'document')} of {len(documents):,} ({share:.1%}) {agree(len(long), 'are')} longer than {by}: the rest is not read.{told}",
            len(long),
            len(documents),
            share,
            "Split long documents into passages"
            + (
                ", or train with a longer limit: nearfar train ... --set max_length=512."
                if limit and limit < USUAL_LENGTH
                else "."
            ),
            examples=material.show(rows, query=False),
        )
    ]


def _token_lengths(material: Material, documents: Sequence[str]) -> np.ndarray:
    """Tokens of each text, as the model's tokenizer would make them without its limit; only texts that may be too long are counted."""
    tokenizer = getattr(material.encoder, "tokenizer", None)
    limit = int(getattr(material.encoder, "max_length", 0))
    lengths = np.zeros(len(documents))
    longer = [n for n, text in enumerate(documents) if len(text) > limit]  # a token is a character at least
    if tokenizer is None or not longer:
        return lengths
    free = type(tokenizer).from_str(tokenizer.to_str())
    free.no_truncation()
    for start in range(0, len(longer), 1024):
        part = longer[start : start + 1024]
        material.progress("count tokens", start, len(longer))
        lengths[part] = [len(e.ids) for e in free.encode_batch_fast([documents[n] for n in part])]
    return lengths


def _tail_matches(material: Material, long: np.ndarray, lengths: np.ndarray, limit: int):
    """The share of pairs with a long positive whose query is nearer to the part cut off than to the part kept (cut by characters in proportion)."""
    rows = np.flatnonzero(np.isin(material.positives, long))
    rng = np.random.default_rng(material.seed)
    rows = np.sort(rng.choice(rows, min(SAMPLE, len(rows)), replace=False))
    if not len(rows):
        return None
    heads, tails = [], []
    for row in rows:
        text = material.documents.distinct[material.positives[row]]
        at = int(len(text) * limit / lengths[material.positives[row]])
        heads.append(text[:at])
        tails.append(text[at : 2 * at])  # as long as the head: a longer text is not better for its length
    queries = material.query_rows[material.queries.number[rows]]
    head, tail = material.embed(heads, "document"), material.embed(tails, "document")
    return share_interval(int(((queries * tail).sum(1) > (queries * head).sum(1)).sum()), len(rows))

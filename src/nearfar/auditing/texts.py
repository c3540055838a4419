"""Texts with nothing in them: rows that are no pair, texts of a word or none, and what many documents say alike (boilerplate)."""

from __future__ import annotations

import re
from collections import Counter

from nearfar.auditing.material import EXAMPLES, Material
from nearfar.data.broken import MOST_LEFT_OUT
from nearfar.data.text import agree, counted, shorten
from nearfar.types import Evidence, Finding, Picture

_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_LETTER = re.compile(r"\w")
_WORD_SIGN = re.compile("[\u3400-\u9fff\uf900-\ufaff\u3041-\u30ff\uac00-\ud7af\U00020000-\U0003ffff]")
"""Chinese, Japanese and Korean: a sign or two are a word."""
SHORT = 3
"""A text of fewer letters or digits than this says next to nothing."""
REPEATED = 0.1
"""A sentence in so large a share of the distinct documents is boilerplate."""
NAMED = 20
"""Rows that are no pairs are named, each with its line, up to so many."""
WORDS = 6
"""Shorter sentences repeat by chance."""
MATTERS = 0.5
"""From this share of documents on, boilerplate weighs on what is learned."""


def check_texts(material: Material) -> list[Finding]:
    """`refused_rows`, `broken_pictures`, `near_empty` and `boilerplate`, all counted."""
    return _refused(material) + _broken(material) + _near_empty(material) + _boilerplate(material)


def _refused(material: Material) -> list[Finding]:
    refused = [one for one in material.refused if not one.is_picture]
    if not refused:
        return []
    total = len(material) + len(material.refused)
    count = len(refused)
    more = f" The first {NAMED} are named." if count > NAMED else ""
    return [
        Finding(
            "refused_rows",
            "data",
            "critical",
            f"{counted(count, 'row')} of {total:,} {'is no pair' if count == 1 else 'are no pairs'} (the line is broken, a text is empty or missing, a number is "
            f"none): training refuses the file.{more}",
            count,
            total,
            count / total,
            material.fix(),
            examples=tuple(Evidence(one.where, one.why) for one in refused[:NAMED]),
        )
    ]


def _broken(material: Material) -> list[Finding]:
    broken = [one for one in material.refused if one.is_picture]
    if not broken:
        return []
    total = len(material) + len(material.refused)
    share = len(broken) / total
    return [
        Finding(
            "broken_pictures",
            "data",
            "critical" if share > MOST_LEFT_OUT else "warning",
            f"{counted(len(broken), 'row')} of {total:,} ({share:.1%}) name a picture that is missing, empty or broken: training leaves them out"
            + (f", and refuses a file with more than {MOST_LEFT_OUT:.0%} of them." if share > MOST_LEFT_OUT else "."),
            len(broken),
            total,
            share,
            material.fix(),
            examples=tuple(Evidence(one.where, one.why) for one in broken[:EXAMPLES]),
        )
    ]


def near_empty_rows(material: Material) -> list[int]:
    """The pairs one of whose texts holds fewer than `SHORT` letters and digits, and no sign that is a word by itself."""

    def is_empty(text: str | Picture) -> bool:
        return not isinstance(text, Picture) and len(_LETTER.findall(text[:200])) < SHORT and not _WORD_SIGN.search(text[:200])

    return [row for row, pair in enumerate(material.pairs) if is_empty(pair.query) or is_empty(pair.positive)]


def _near_empty(material: Material) -> list[Finding]:
    rows = near_empty_rows(material)
    if not rows:
        return []
    share = len(rows) / len(material)
    return [
        Finding(
            "near_empty",
            "data",
            "warning" if share >= 0.01 else "info",
            f"{counted(len(rows), 'pair')} of {len(material):,} ({share:.1%}) {agree(len(rows), 'have')} a text of fewer than {SHORT} letters.",
            len(rows),
            len(material),
            share,
            material.fix(),
            examples=material.show(rows),
        )
    ]


def _boilerplate(material: Material) -> list[Finding]:
    """Sentences that stand in many distinct documents."""
    documents = material.documents.distinct
    held: Counter[str] = Counter()
    sentences = [
        set() if isinstance(text, Picture) else {s.strip() for s in _SENTENCES.split(text) if len(s.split()) >= WORDS}
        for text in documents
    ]
    for found in sentences:
        held.update(found)
    least = max(20, REPEATED * len(documents))
    common = {sentence for sentence, count in held.items() if count >= least}
    if not common:
        return []
    concerned = [number for number, found in enumerate(sentences) if found & common]
    share = len(concerned) / len(documents)
    top = sorted(common, key=lambda s: (-held[s], s))[:EXAMPLES]
    first = {s: next(n for n in concerned if s in sentences[n]) for s in top}
    where = {int(number): material.where[row] for row, number in reversed(list(enumerate(material.positives.tolist())))}
    return [
        Finding(
            "boilerplate",
            "data",
            "warning" if share >= MATTERS else "info",
            f"{counted(len(concerned), 'document')} of {len(documents):,} ({share:.1%}) {agree(len(concerned), 'hold')} a sentence that stands in {REPEATED:.0%} of them or more.",
            len(concerned),
            len(documents),
            share,
            "Strip these sentences before training: they make every document like every other.",
            examples=tuple(
                Evidence(where.get(first[s], material.name), f"in {held[s]:,} documents: {shorten(s, 80)}") for s in top
            ),
        )
    ]

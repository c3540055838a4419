"""What the pairs are made of: their languages, by script and by the commonest words, and their sources."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from nearfar.auditing.material import EXAMPLES, Material
from nearfar.types import Evidence, Finding, Picture

_WORD = re.compile(r"[^\W\d_]+")
COMMON: dict[str, frozenset[str]] = {
    "English": frozenset(
        [
            "the",
            "of",
            "and",
            "to",
            "in",
            "is",
            "that",
            "for",
            "it",
            "with",
            "as",
            "are",
            "was",
            "on",
            "be",
            "this",
            "by",
            "from",
            "have",
            "or",
            "an",
            "not",
            "you",
            "what",
            "how",
        ]
    ),
    "German": frozenset(
        [
            "der",
            "die",
            "das",
            "und",
            "ist",
            "nicht",
            "ein",
            "eine",
            "zu",
            "den",
            "mit",
            "von",
            "für",
            "auf",
            "im",
            "sich",
            "auch",
            "dem",
            "werden",
            "wie",
            "was",
            "ich",
            "sie",
        ]
    ),
    "French": frozenset(
        [
            "le",
            "la",
            "les",
            "des",
            "et",
            "est",
            "un",
            "une",
            "du",
            "dans",
            "que",
            "pour",
            "qui",
            "pas",
            "sur",
            "au",
            "avec",
            "ce",
            "il",
            "sont",
            "vous",
            "quel",
            "comment",
        ]
    ),
    "Spanish": frozenset(
        [
            "el",
            "los",
            "las",
            "del",
            "y",
            "es",
            "un",
            "una",
            "que",
            "por",
            "con",
            "para",
            "se",
            "su",
            "no",
            "como",
            "más",
            "qué",
            "cómo",
            "está",
            "lo",
            "al",
            "sus",
        ]
    ),
    "Italian": frozenset(
        [
            "il",
            "di",
            "che",
            "è",
            "per",
            "un",
            "una",
            "non",
            "con",
            "sono",
            "della",
            "del",
            "gli",
            "le",
            "si",
            "come",
            "da",
            "più",
            "nel",
            "alla",
            "cosa",
            "questo",
        ]
    ),
    "Portuguese": frozenset(
        [
            "o",
            "os",
            "as",
            "do",
            "da",
            "dos",
            "das",
            "e",
            "é",
            "um",
            "uma",
            "que",
            "não",
            "para",
            "com",
            "em",
            "por",
            "se",
            "mais",
            "como",
            "são",
            "ao",
            "na",
            "no",
        ]
    ),
    "Dutch": frozenset(
        [
            "de",
            "het",
            "een",
            "van",
            "en",
            "is",
            "niet",
            "dat",
            "op",
            "te",
            "zijn",
            "voor",
            "met",
            "die",
            "aan",
            "er",
            "ook",
            "als",
            "bij",
            "hoe",
            "wat",
            "ik",
        ]
    ),
}
"""The commonest words of each language that is told apart within the Latin script."""
SCRIPTS = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "GREEK": "Greek",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "THAI": "Thai",
}
SURE = 3
"""Common words of one language that a text must hold, and half as many again as of any other, to be called written in it."""
MIXED = 0.02
"""A language of so large a share of the texts that are told is a part of the file, not an accident."""
LOPSIDED = 0.01
"""A source of a smaller share of the pairs than this is hardly seen."""


def language_of(text: str) -> str | None:
    """The language (or script) of a text by its letters and commonest words; None where that does not tell."""
    letters = [c for c in text[:400] if c.isalpha()]
    if not letters:
        return None
    foreign = Counter(
        name
        for c in letters
        if not c.isascii()
        for key in (unicodedata.name(c, "").partition(" ")[0],)
        for name in (SCRIPTS.get(key),)
        if name
    )
    if foreign and foreign.total() > len(letters) / 2:
        return "Japanese" if foreign["Japanese"] else foreign.most_common(1)[0][0]
    words = Counter(_WORD.findall(text[:2000].lower()))
    scores = sorted(((sum(words[w] for w in common), name) for name, common in COMMON.items()), reverse=True)
    return scores[0][1] if scores[0][0] >= SURE and scores[0][0] >= 1.5 * scores[1][0] else None


def check_languages(material: Material) -> list[Finding]:
    """`language_mix`: counted over the pairs whose positive (or caption of a picture) tells its language. Different languages on the two sides are named too."""
    told: list[tuple[int, str]] = []
    across: list[int] = []
    for row, pair in enumerate(material.pairs):
        text, other = (pair.query, None) if isinstance(pair.positive, Picture) else (pair.positive, pair.query)
        positive = None if isinstance(text, Picture) else language_of(text)
        if positive is not None:
            told.append((row, positive))
            query = None if other is None or isinstance(other, Picture) else language_of(other)
            if query is not None and query != positive:
                across.append(row)
    counts = Counter(name for _, name in told)
    if len(counts) < 2:
        return []
    main = counts.most_common(1)[0][0]
    others = [row for row, name in told if name != main]
    share = len(others) / len(told)
    shown = ", ".join(f"{name} {count / len(told):.1%}" for name, count in counts.most_common(4))
    both = f" {len(across):,} pairs have two languages, one on each side." if across else ""
    return [
        Finding(
            "language_mix",
            "data",
            "info",
            f"{'several languages' if share >= MIXED else 'a few texts in another language'}: {shown} of {len(told):,} {'captions' if material.has_pictures else 'positives'} that tell.{both}",
            len(others),
            len(told),
            share,
            "Where one language is meant, drop the others; where several are, take an encoder that knows them (its card says which).",
            examples=material.show(others),
        )
    ]


def check_sources(material: Material) -> list[Finding]:
    """`source_imbalance`: counted."""
    counts = Counter(pair.source for pair in material.pairs if pair.source is not None)
    if len(counts) < 2:
        return []
    largest, smallest = counts.most_common(1)[0], min(counts.items(), key=lambda item: (item[1], item[0]))
    share = smallest[1] / len(material)
    if share >= LOPSIDED and largest[1] / len(material) < 0.9:
        return []
    first = {
        name: next(i for i, p in enumerate(material.pairs) if p.source == name) for name, _ in counts.most_common()[-EXAMPLES:]
    }
    return [
        Finding(
            "source_imbalance",
            "data",
            "info",
            f"of {len(counts)} sources {largest[0]!r} has {largest[1] / len(material):.1%} of the pairs and {smallest[0]!r} {share:.1%}.",
            smallest[1],
            len(material),
            share,
            "Give each source a file and a weight of its own: nearfar train A.jsonl B.jsonl --config run.toml (docs/training.md).",
            examples=tuple(Evidence(material.where[row], f"{name!r}: {counts[name]:,} pairs") for name, row in first.items()),
        )
    ]

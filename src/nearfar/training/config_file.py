"""A run told in one file: a TOML (or JSON) file that composes settings, sources and stages, for what is too long for a command line.

encoder = "minilm"
pairs = ["faq.jsonl", "tickets.csv"]        # relative to this file
batch_size = 64

[mixture.query_prompts]
faq = "question: "

[[stage]]                                   # any number, each from the model of the one before; none: one run
name = "all"
[[stage]]
name = "faq only"
sources = ["faq"]
temperature = 0.02
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfar.errors import BadConfig, BadInput
from nearfar.training.config import parse_settings

_WORDS = ("encoder", "recipe", "teacher", "pairs", "stage")
_STAGE_WORDS = ("name", "sources", "query_prompt", "document_prompt")


@dataclass(frozen=True)
class FileStage:
    """One stage as the file tells it."""

    name: str
    sources: tuple[str, ...] | None
    prompts: tuple[str, str] | None
    settings: tuple[str, ...]


@dataclass(frozen=True)
class ConfigFile:
    """What a file says: settings as `--set` takes them, and what else a command line would."""

    settings: tuple[str, ...]
    pairs: tuple[Path, ...] = ()
    encoder: str | None = None
    recipe: str | None = None
    teacher: str | None = None
    stages: tuple[FileStage, ...] = ()


def read_config_file(path: Path | str) -> ConfigFile:
    """Read a run's file, every setting checked. Raises `BadInput` where it cannot be read, `BadConfig` for what it says, both naming it."""
    path = Path(path)
    told = _parse(path)
    try:
        stages = tuple(_stage(number, found) for number, found in enumerate(told.get("stage", ()), 1))
        settings = _texts({key: value for key, value in told.items() if key not in _WORDS})
        for each in ((), *(stage.settings for stage in stages)):
            parse_settings([*settings, *each])
        words = {word: _word(told, word) for word in ("encoder", "recipe", "teacher")}
        if stages and words["recipe"]:
            raise BadConfig("recipe and [[stage]]: a recipe has stages of its own. Give one of the two.")
        pairs = told.get("pairs", [])
        if not isinstance(pairs, list) or not all(isinstance(place, str) for place in pairs):
            raise BadConfig(f'pairs={pairs!r}: expected a list of files, as in pairs = ["a.jsonl", "b.csv"].')
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from error
    return ConfigFile(settings, tuple(path.parent / place for place in pairs), stages=stages, **words)


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file. Check the path.") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise BadInput(f"{path}: this is not valid {kind} ({error}).") from error
    if not isinstance(told, dict):
        raise BadInput(f"{path}: expected names and values, found {type(told).__name__}.")
    return told


def _stage(number: int, told: Any) -> FileStage:
    if not isinstance(told, dict) or not isinstance(told.get("name"), str) or not told["name"].strip():
        raise BadConfig(f'stage {number}: it has no name. Give one: name = "easy".')
    name = "-".join(told["name"].split()).replace("/", "-")
    sources = told.get("sources")
    if sources is not None and (not isinstance(sources, list) or not sources):
        raise BadConfig(f"stage {name}: sources={sources!r}: expected a list of names.")
    prompts = (_word(told, "query_prompt"), _word(told, "document_prompt"))
    settings = _texts({key: value for key, value in told.items() if key not in _STAGE_WORDS})
    return FileStage(
        name,
        None if sources is None else tuple(map(str, sources)),
        None if prompts == (None, None) else (prompts[0] or "", prompts[1] or ""),
        settings,
    )


def _word(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    if value is not None and not isinstance(value, str):
        raise BadConfig(f"{name}={value!r}: expected text.")
    return value


def _texts(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Nested settings as `name=value`; a table of sources stays one value."""
    from nearfar.training.config import describe_config

    known = {setting.name for setting in describe_config()}

    def walk(values: Mapping[str, Any], prefix: str) -> list[str]:
        found: list[str] = []
        for key, value in values.items():
            name = prefix + key
            if isinstance(value, dict) and name not in known:
                found += walk(value, f"{name}.")
            elif isinstance(value, dict):
                found.append(f"{name}={json.dumps(value, ensure_ascii=False)}")
            else:
                found.append(f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
        return found

    return tuple(walk(told, ""))

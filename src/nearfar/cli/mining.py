"""`nearfar mine`: hard negatives into a new pairs file, and what was found and dropped, said. Heavy imports are inside."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from nearfar.cli.commands import parse_columns
from nearfar.data.text import agree, counted, shorten
from nearfar.errors import BadConfig, BadInput

if TYPE_CHECKING:
    from nearfar.mining import NegativeRule, Summary
    from nearfar.mining.summary import Example

NO_MODEL = "bm25"
"""The model that is none: words alone."""


@dataclass(frozen=True)
class MineOptions:
    """The options of `nearfar mine` as given; None where they were not."""

    rule: dict[str, Any]
    """Values of `NegativeRule` by name."""
    below_positive: str | None
    corpus: Path | None
    sources: str | None
    fill: bool
    teacher: str | None
    cache: str | None
    columns: str | None
    keep: bool


def mine(pairs: Path, model: str, out: Path, options: MineOptions, *, as_json: bool) -> int:
    """`nearfar mine`: exit 1 where not a single negative was found (the file is written all the same)."""
    from nearfar.cli.progress import shown
    from nearfar.cli.rows import read_pairs_strictly
    from nearfar.data.formats import suffix_of
    from nearfar.data.pairs import write_pairs
    from nearfar.data.picture_columns import cell_of
    from nearfar.mining import mine as run_mining
    from nearfar.types import Picture

    suffix_of(out)
    if out.resolve() == pairs.resolve():
        raise BadInput(f"{out}: this is the file that is read. Write the mined pairs to another one.")
    if out.is_dir():
        raise BadInput(f"{out}: this is a folder. Name the file to write, as in {out / 'mined.jsonl'}.")
    talk = sys.stderr if as_json else sys.stdout
    rule = _rule(options, model)
    file = read_pairs_strictly(pairs, columns=parse_columns(options.columns))
    print(file.understood, file=talk, flush=True)
    for item in (item for pair in file.pairs for item in (pair.query, pair.positive) if isinstance(item, Picture)):
        cell_of(item, out)  # what this format cannot hold is said before the mining, not after it
    corpus = _corpus(options.corpus)
    if options.corpus:
        print(f"{options.corpus.name}: {counted(len(corpus), 'more document')}", file=talk, flush=True)
    cache = _cache(options.cache, out)
    with shown() as progress:
        found = run_mining(
            file.pairs,
            encoder=None if model == NO_MODEL else model,
            rule=rule,
            corpus=corpus,
            sources=options.sources or ("bm25" if model == NO_MODEL else "dense"),
            teacher=options.teacher,
            cache=cache,
            keep=options.keep,
            fill=options.fill,
            progress=progress,
        )
    write_pairs(out, found.pairs)
    if as_json:
        told = {"out": str(out), "cache": None if cache is None else str(cache)}
        print(json.dumps(found.summary.to_json() | told, ensure_ascii=False), flush=True)
    else:
        print("\n" + tell(found.summary))
        print(f"\n{out}: {counted(len(found.pairs), 'pair')}. " + (f"Vectors and lists are kept in {cache}." if cache else ""))
        print(f"Next: nearfar train {quote(str(out))} -o RUN, or the same command with another rule: it takes seconds now.")
    return 0 if found.summary.total[1] else 1


def tell(summary: Summary) -> str:
    """What a mining came to, for a person."""
    from nearfar.mining.summary import MEANINGS, QUANTILES

    asked, found = summary.total
    lines = [
        f"found {found:,} of {counted(asked, 'negative')} asked for ({_percent(found, asked)}): {counted(summary.pairs, 'pair')}, "
        f"{counted(summary.documents, 'document')}",
        f"  all of {summary.rule.count} for {counted(summary.full, 'pair')}, none at all for {summary.without:,}",
    ]
    if len(summary.asked) > 1:
        lines += [f"  {name:<14} {summary.found[name]:,} of {summary.asked[name]:,}" for name in summary.asked]
    if summary.kept:
        lines.append(f"  {summary.kept:,} that {agree(summary.kept, 'were')} there {agree(summary.kept, 'are')} kept")
    if summary.first:
        lines += ["the first of them", *_shown(summary.first)]
    if summary.dropped:
        lines.append(f"dropped, of the first {counted(summary.rule.depth, 'document')} that each search found for a query")
    for reason, count in sorted(summary.dropped.items(), key=lambda item: list(MEANINGS).index(item[0])):
        value = getattr(summary.rule, "teacher_below" if reason == "teacher" else reason, None)
        rule = reason if value is None else f"{reason} {value:g}"
        lines.append(f"  {rule:<20} {count:>10,}  {MEANINGS[reason]}")
        lines += _shown(summary.examples[reason])
    if summary.margins:
        spread = "  ".join(f"{q} %: {value:+.3f}" for q, value in zip(QUANTILES, summary.margins, strict=True))
        lines.append(f"margins (positive's score less the negative's; the share of the negatives that have less)\n  {spread}")
    if summary.from_cache:
        lines.append(f"not searched again, kept from before: {', '.join(summary.from_cache)}")
    lines += [f"note: {advice}" for advice in summary.advice]
    return "\n".join(lines)


def _shown(example: Example) -> list[str]:
    scores = "" if example.score is None else f"  {example.score:.3f} (positive {example.positive_score:.3f})"
    return [f"      query     {shorten(example.query, 80)}", f"      document  {shorten(example.document, 80)}{scores}"]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _rule(options: MineOptions, model: str) -> NegativeRule:
    """The rule that the options say; without a model no rule of scores is in force unless it was asked for."""
    from nearfar.mining import NegativeRule

    given = {name: value for name, value in options.rule.items() if value is not None}
    text = options.below_positive
    if text is None:
        given |= {"below_positive": None} if model == NO_MODEL else {}
    elif text == "off":
        given["below_positive"] = None
    else:
        try:
            given["below_positive"] = float(text)
        except ValueError:
            raise BadConfig(f"--below-positive {text}: expected a share of the positive's score, as in 0.95, or off.") from None
    if "depth" not in given:
        # deep enough for what is asked, where nothing was said
        given["depth"] = max(NegativeRule().depth, given.get("skip_top", 0) + 10 * given.get("count", NegativeRule().count))
    return NegativeRule(**given)


def _corpus(path: Path | None) -> Sequence[str]:
    from nearfar.cli.rows import read_texts

    return [] if path is None else [text for text in read_texts(path).values() if text.strip()]


def _cache(told: str | None, out: Path) -> Path | None:
    if told == "off":
        return None
    return out.with_name(f".{out.name}.cache") if told is None else Path(told)

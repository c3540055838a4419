"""`nearfar audit`: findings as a person reads them, the cleaned copy, and the questions of `--review`. Heavy imports are inside."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from nearfar.data.text import agree, counted
from nearfar.errors import BadInput

if TYPE_CHECKING:
    from nearfar.auditing import Audit, Material
    from nearfar.auditing.fixing import Fixed
    from nearfar.auditing.review import Answer, Candidate
    from nearfar.types import Finding, Progress

_WIDTH = 118


@dataclass(frozen=True)
class Given:
    """What is looked at, and with what: the options that all of `nearfar audit` shares."""

    pairs: Path
    task: Path | None
    model: str | None
    split: str | None
    columns: str | None
    seed: int


def audit(given: Given, *, fix: Path | None, out: Path | None, as_json: bool) -> int:
    """`nearfar audit PAIRS`: exit 1 where a finding is critical, 2 where the copy is refused; the findings are said all the same."""
    from nearfar.auditing import audit_material
    from nearfar.cli.progress import shown
    from nearfar.files import write_json

    with shown() as progress:
        material = replace(_material(given, progress, as_json), copy=str(fix or ""))
        found = audit_material(material)
        fixed, refusal = _fix(given, material, fix) if fix else (None, None)
    told: dict[str, Any] = {"pairs": str(given.pairs), **found.to_json()}
    if fixed:
        told["fixed"] = {**fixed._asdict(), "path": str(fixed.path), "removed": str(fixed.removed)}
    if refusal:
        told["error"] = {"kind": type(refusal).__name__, "message": str(refusal)}
    if out:
        write_json(out, told)
    if as_json:
        print(json.dumps(told, ensure_ascii=False), flush=True)
    else:
        print(_page(found))
        if fixed:
            print("\n" + _tell_fixed(fixed, given.columns))
    if refusal:
        print(f"nearfar: {refusal}", file=sys.stderr)
        return refusal.exit_code
    return 1 if any(finding.severity == "critical" for finding in found.findings) else 0


def review(given: Given, *, count: int, as_json: bool) -> int:
    """`nearfar audit PAIRS --model M --review`: one question at a time; whatever was answered is kept and counts."""
    from nearfar.auditing.review import rate, sample_candidates
    from nearfar.auditing.review import review as ask_all
    from nearfar.cli.progress import shown

    with shown() as progress:
        material = _material(given, progress, as_json)
        sample = sample_candidates(material, count)
    path = given.pairs.with_name(f"{given.pairs.name}.review.jsonl")
    print(
        f"{counted(len(sample.candidates), 'candidate')}. Would this document be a right answer too? y yes, n no, s skip, q quit; answers are kept in {path}.",
        file=sys.stderr,
    )
    answers = ask_all(sample, path, _ask)
    finding = rate(sample, answers, where=quote(str(given.pairs)), model=given.model or "")
    left = sum(candidate.key() not in answers for candidate in sample.candidates)
    if as_json:
        told = {"answers": str(path), "left": left, "finding": finding.to_json() if finding else None}
        print(json.dumps(told, ensure_ascii=False), flush=True)
        return 0
    print("\n" + (_paragraph(finding) if finding else "no answers yet: nothing to estimate."))
    if left:
        print(
            f"\n{left} of {len(sample.candidates)} {agree(left, 'are')} still to be answered: the same command goes on there."
        )
    return 0


def _ask(candidate: Candidate, number: int, total: int) -> Answer | None:
    """One question on the terminal (or of a pipe); None where the answer is to stop, or nothing more comes."""
    from nearfar.data.text import shorten

    print(f"\n[{number}/{total}] {candidate.where}", file=sys.stderr)
    for name, text in (("query", candidate.query), ("positive", candidate.positive), ("also right?", candidate.document)):
        lines = textwrap.wrap(shorten(text, 500), _WIDTH - 14) or [""]
        print(f"  {name:<12}" + "\n              ".join(lines), file=sys.stderr)
    answers: dict[str, Answer] = {"y": "yes", "n": "no", "s": "skip"}
    while True:
        print("  y/n/s/q> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        said = line.strip().lower()[:1]
        if not line or said == "q":
            return None
        if said in answers:
            return answers[said]


def _material(given: Given, progress: Progress, as_json: bool) -> Material:
    from nearfar.auditing.reading import read_leniently, without_broken
    from nearfar.cli.commands import parse_columns
    from nearfar.data.tasks import read_task

    material = read_leniently(given.pairs, columns=parse_columns(given.columns))
    print(material.understood, file=sys.stderr if as_json else sys.stdout, flush=True)
    if given.task:
        task = read_task(given.task, split=given.split)
        print(task.understood, file=sys.stderr if as_json else sys.stdout, flush=True)
        material = replace(material, task=task.task, task_name=str(given.task))
    if given.model:
        from nearfar.encoders import load_encoder

        material = replace(material, encoder=load_encoder(given.model, progress=progress), model_name=given.model)
    return without_broken(replace(material, columns=given.columns or "", seed=given.seed, progress=progress))


def _fix(given: Given, material: Material, out: Path) -> tuple[Fixed | None, BadInput | None]:
    """The cleaned copy, or why there is none."""
    from nearfar.auditing.fixing import fix
    from nearfar.cli.commands import parse_columns

    try:
        return fix(material, given.pairs, out, columns=parse_columns(given.columns)), None
    except BadInput as refusal:
        return None, refusal


def _page(found: Audit) -> str:
    parts = [f"Looked at {found.looked_at}."]
    parts += [_paragraph(finding) for finding in found.findings]
    if found.is_clean:
        parts.append("Nothing stands above info: no fault was found that has to be mended.")
    if found.left_out:
        parts.append("Not looked at:\n" + "\n".join(_wrapped(f"- {what}", "  ") for what in found.left_out))
    return "\n\n".join(parts)


def _paragraph(finding: Finding) -> str:
    lines = [
        _wrapped(
            f"{finding.severity.upper() if finding.severity == 'critical' else finding.severity}  {finding.code}: {finding.what}",
            "  ",
        )
    ]
    lines += [f"    {example.where}  {example.text}" for example in finding.examples]
    lines.append(_wrapped(f"  > {finding.remedy}", "    "))
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def _tell_fixed(fixed: Fixed, columns: str | None) -> str:
    if not fixed.reasons:
        return f"{fixed.path}: {counted(fixed.kept, 'row')}, none removed."
    told = ", ".join(f"{count:,} {reason}" for reason, count in fixed.reasons.items())
    return (
        f"{fixed.path}: {counted(fixed.kept, 'row')} kept. Removed: {told}; {fixed.removed} has each with its line and reason.\n"
        + (f"Next: nearfar train {quote(str(fixed.path))}{f' --columns {quote(columns)}' if columns else ''} -o RUN")
    )

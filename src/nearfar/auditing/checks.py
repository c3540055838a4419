"""The audit: one table of checks, each a plain function of the material, and what they found, worst first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from nearfar.auditing.answers import check_answers
from nearfar.auditing.cut import check_cut
from nearfar.auditing.duplicates import check_duplicates
from nearfar.auditing.languages import check_languages, check_sources
from nearfar.auditing.leakage import check_leakage
from nearfar.auditing.matching import check_matching
from nearfar.auditing.material import Material
from nearfar.auditing.negatives import check_negatives
from nearfar.auditing.scores import check_scores
from nearfar.auditing.swapped import check_swapped
from nearfar.auditing.texts import check_texts
from nearfar.data.text import counted
from nearfar.errors import BadInput
from nearfar.types import Encoder, Finding, Pair, Progress, Task, silent

if TYPE_CHECKING:
    from pathlib import Path

    from nearfar.data.pairs import PairFile


class Check(NamedTuple):
    """One check: its name, and the function that looks."""

    name: str
    find: Callable[[Material], list[Finding]]


CHECKS = (
    Check("texts", check_texts),
    Check("duplicates", check_duplicates),
    Check("answers", check_answers),
    Check("leakage", check_leakage),
    Check("columns", check_swapped),
    Check("cut texts", check_cut),
    Check("languages", check_languages),
    Check("sources", check_sources),
    Check("matching", check_matching),
    Check("scores", check_scores),
    Check("negatives", check_negatives),
)
ORDER = {"critical": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class Audit:
    """What an audit found, worst first; what it looked at, in one line; and what it left out, with why and what to type."""

    findings: tuple[Finding, ...]
    looked_at: str
    left_out: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing stands above `info`."""
        return all(finding.severity == "info" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "looked_at": self.looked_at,
            "findings": [finding.to_json() for finding in self.findings],
            "left_out": list(self.left_out),
        }


def audit(
    pairs: PairFile | Path | str | Sequence[Pair],
    *,
    task: Task | None = None,
    encoder: Encoder | None = None,
    model_name: str = "",
    seed: int = 0,
    progress: Progress = silent,
) -> Audit:
    """Look for faults in training pairs: duplicates, leakage into `task`, swapped, mismatched, cut and empty texts, noisy scores, wrong negatives.

    `pairs` are a file's name, a file read by `read_pairs`, or pairs. With `encoder` similarities are looked at as well. The same pairs and seed give the
    same findings. Memory: some 50 bytes for every word, the rows of all texts where there is an encoder. Raises `BadInput` for a file that cannot be read, and for no pairs.
    """
    return audit_material(material_of(pairs, task=task, encoder=encoder, model_name=model_name, seed=seed, progress=progress))


def material_of(pairs: PairFile | Path | str | Sequence[Pair], **given: Any) -> Material:
    """What `audit` looks at. Raises as `audit`."""
    from pathlib import Path

    from nearfar.auditing.reading import read_leniently, without_broken
    from nearfar.data.pairs import PairFile

    if isinstance(pairs, (str, Path)):
        read = read_leniently(pairs)
        return without_broken(replace(read, **given))
    if isinstance(pairs, PairFile):
        return without_broken(Material(pairs.pairs, pairs.where, str(pairs.path), **given))
    if not pairs:
        raise BadInput("pairs: there are none. Give at least one pair.")
    return without_broken(Material(list(pairs), [f"pairs[{number}]" for number in range(len(pairs))], "PAIRS", **given))


def audit_material(material: Material) -> Audit:
    """All checks of the table, in its order; their findings by severity, the largest share first."""
    if material.encoder is not None and not material.model_name:
        material = replace(material, model_name=type(material.encoder).__name__)
    found: list[Finding] = []
    for number, check in enumerate(CHECKS):
        material.progress("audit", number, len(CHECKS), check=check.name)
        found += check.find(material)
    material.progress("audit", len(CHECKS), len(CHECKS))
    ordered = sorted(found, key=lambda finding: (ORDER[finding.severity], -finding.share))
    return Audit(tuple(ordered), _looked_at(material), tuple(_left_out(material)))


def _looked_at(material: Material) -> str:
    with_ = [f"the model {material.model_name}"] if material.encoder is not None else []
    with_ += (
        [f"the task {material.task.name} ({counted(len(material.task.queries), 'query')})"] if material.task is not None else []
    )
    parts = [(len(material.queries.distinct), "distinct query"), (len(material.documents.distinct), "distinct document")]
    parts += [(len(material.negatives), "hard negative")] * bool(len(material.negatives))
    held = ", ".join(counted(number, what) for number, what in parts)
    return f"{counted(len(material), 'pair')}: {held}" + (f"; with {' and '.join(with_)}" if with_ else "")


def _left_out(material: Material) -> list[str]:
    from nearfar.auditing.matching import why_not

    found: list[str] = []
    again = material.command()
    if material.task is None:
        found.append(f"leakage into the evaluation: no task was given. Add --task FOLDER: {again} --task FOLDER")
    if material.encoder is None and material.has_pictures:
        found.append(
            f"whether captions belong to their pictures, negatives too hard or too easy: needs a model with an image tower: {again} --model RUN"
        )
    elif material.encoder is None:
        found.append(
            f"all that needs a model (mismatched positives beyond their words, scores, negatives too hard or too easy, what the model does not read): {again} --model static"
        )
    if not len(material.negatives):
        found.append("hard negatives: the file has none")
    if all(pair.score is None for pair in material.pairs):
        found.append("scores: the file has none")
    if not (material.has_pictures and material.encoder is None) and (why := why_not(material)):
        found.append(f"mismatched positives: {why}")
    return found

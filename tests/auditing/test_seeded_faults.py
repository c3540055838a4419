"""Faults planted at 1, 5 and 20 %: the audit names each by its code and says how large it is; a clean file is called clean."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nearfar.auditing import CHECKS, audit, material_of
from nearfar.data.pairs import read_pairs
from nearfar.data.tasks import read_task, task_from_pairs
from nearfar.types import Pair

import faults

SHARES = (0.01, 0.05, 0.2)
MEDQUAD = Path(__file__).parents[3] / "shared/data/medquad"


@cache
def clean():
    return faults.clean_pairs(2_000)


@cache
def held_out():
    return task_from_pairs("held out", faults.clean_pairs(500, seed=1))


@cache
def medquad():
    if not MEDQUAD.exists():
        pytest.skip("needs ../shared/data/medquad")
    return read_pairs(MEDQUAD / "pairs.jsonl").pairs[:3_000]


@cache
def medquad_task():
    return read_task(MEDQUAD / "task").task


LOOKS = {
    "swapped_columns": "columns",
    "cut_in_file": "cut texts",
    "mismatched_positives": "matching",
    "leaked_answers": "leakage",
    "planted_positives": "negatives",
}


def found_in(pairs, code, task=None, says=""):
    """The finding of this code, by the check of the table that looks for it."""
    look = next(check.find for check in CHECKS if check.name == LOOKS[code])
    return next((f for f in look(material_of(pairs, task=task)) if f.code == code and says in f.what), None)


def check(finding, truth, *, slack=0.0):
    """Named above info, its size within the interval (or, where it was counted, within a tenth of it)."""
    assert finding is not None
    assert finding.severity != "info", finding.what
    low, high = (finding.low, finding.high) if finding.low is not None else (0.9 * truth, 1.1 * truth)
    assert low - slack <= truth <= high + slack, finding.what


def above_info(result):
    return [(f.code, f.what) for f in result.findings if f.severity != "info"]


def test_a_clean_file_gives_nothing_above_info():
    result = audit(faults.mine(clean(), 2, np.random.default_rng(0)), task=held_out())
    assert above_info(result) == []
    assert result.is_clean


def test_real_pairs_beside_their_own_task_give_nothing_above_info():
    assert above_info(audit(medquad(), task=medquad_task())) == []


@pytest.mark.parametrize("name", ["cisi", "cranfield"])
def test_judged_pairs_whose_words_differ_are_not_called_shuffled_by_words_alone(name):
    if not (folder := MEDQUAD.parent / name).exists():
        pytest.skip(f"needs ../shared/data/{name}")
    task = read_task(folder).task
    pairs = [
        Pair(task.queries[q], task.corpus[d])
        for q, judged in task.judgements.items()
        for d, grade in judged.items()
        if grade > 0
    ]
    assert found_in(pairs, "mismatched_positives").severity == "info"


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("source", [clean, medquad])
@pytest.mark.parametrize(
    ("spoil", "code"), [(faults.swap, "swapped_columns"), (faults.truncate, "cut_in_file")], ids=["swapped", "truncated"]
)
def test_what_a_row_shows_by_itself_is_named_and_sized(source, spoil, code, share):
    pairs, truth = spoil(source(), share, np.random.default_rng(1))
    # the real texts have been cut before, at 4,000 characters
    check(found_in(pairs, code, says="at 300 characters" if spoil is faults.truncate else ""), truth)


@pytest.mark.parametrize("share", SHARES)
def test_shuffled_positives_are_named_and_sized_by_words_alone(share):
    pairs, truth = faults.shuffle(clean(), share, np.random.default_rng(2))
    check(found_in(pairs, "mismatched_positives"), truth)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("near", [False, True], ids=["copied", "nearly copied"])
def test_duplicates_across_the_split_are_named_and_sized(share, near):
    pairs, truth = faults.leak(clean(), held_out(), share, np.random.default_rng(3), near=near)
    finding = found_in(pairs, "leaked_answers", held_out())
    check(finding, truth)
    assert finding.severity == "critical"


@pytest.mark.parametrize("share", SHARES)
def test_duplicates_across_a_real_split_are_named_and_sized(share):
    pairs, truth = faults.leak(medquad(), medquad_task(), share, np.random.default_rng(3), near=True)
    check(found_in(pairs, "leaked_answers", medquad_task()), truth)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("source", [clean, medquad])
def test_positives_planted_among_mined_negatives_are_named_and_sized(source, share):
    rng = np.random.default_rng(4)
    pairs, truth = faults.plant(faults.mine(source()[:2_000], 3, rng), share, rng)
    check(found_in(pairs, "planted_positives"), truth)


def test_a_whole_file_the_wrong_way_round_is_critical():
    pairs, _ = faults.swap(clean(), 1.0, np.random.default_rng(5))
    finding = found_in(pairs, "swapped_columns")
    assert finding is not None
    assert (finding.severity, finding.share) == ("critical", 1.0)

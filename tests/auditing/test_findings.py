"""The findings that only some files have: said of the rows that were spoiled, with their share, and of no others."""

from dataclasses import replace

import numpy as np
import pytest

from nearfar.auditing import audit
from nearfar.types import Pair

import faults


class Told:
    """An encoder that encodes nothing: its rows are told by a table of texts."""

    dim = 8

    def fingerprint(self):
        return "sha256:told"

    def prepare(self, items, role):
        raise AssertionError("rows are told, nothing is encoded")


def told(monkeypatch, rows):
    """An encoder that gives these rows, by text."""
    from nearfar.auditing.material import Material

    monkeypatch.setattr(Material, "embed", lambda _, texts, role: np.stack([rows[role, t] for t in texts]).astype(np.float32))
    return Told()


def codes(pairs, **given):
    return {f.code: f for f in audit(pairs, **given).findings}


def unit(angle):
    return np.array([np.cos(angle), np.sin(angle), 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("text", ["北京", "猫", "東京", "서울", "あい"])
def test_a_word_of_one_or_two_signs_is_not_near_empty(text):
    assert "near_empty" not in codes([*faults.clean_pairs(20), Pair("What is the capital?", text)])


@pytest.mark.parametrize("text", ["?", "no", "a.", "--- 7"])
def test_a_text_of_fewer_than_three_letters_is_near_empty_by_its_line(text):
    found = codes([*faults.clean_pairs(20), Pair("What is the capital?", text)])["near_empty"]
    assert (found.count, found.total, found.examples[0].where) == (1, 21, "pairs[20]")


def test_a_sentence_of_many_documents_is_boilerplate_and_loud_from_half_of_them_on():
    pairs = faults.clean_pairs(200)
    tail = " This site does not give any medical advice."

    def spoiled(count):
        return [replace(p, positive=p.positive + tail * (n < count)) for n, p in enumerate(pairs)]

    assert "boilerplate" not in codes(spoiled(19))
    quiet, loud = codes(spoiled(60))["boilerplate"], codes(spoiled(120))["boilerplate"]
    assert (quiet.count, quiet.total, quiet.severity) == (60, 200, "info")
    assert (loud.count, loud.severity) == (120, "warning")
    assert quiet.examples[0].where == "pairs[0]"
    assert quiet.examples[0].text.startswith("in 60 documents: This site")


def test_a_source_of_nearly_all_or_hardly_any_pairs_is_named_and_even_ones_are_not():
    pairs = faults.clean_pairs(300)
    even = [replace(p, source="ab"[n % 2]) for n, p in enumerate(pairs)]
    assert "source_imbalance" not in codes(even)
    uneven = [replace(p, source="b" if n < 2 else "a") for n, p in enumerate(pairs)]
    assert codes(uneven)["source_imbalance"].severity == "info"


def test_negatives_nearer_than_their_positive_are_counted_as_they_were_planted(monkeypatch):
    pairs = [replace(p, negatives=(f"negative number {n} of them all",)) for n, p in enumerate(faults.clean_pairs(200))]
    rows = {("query", p.query): unit(0) for p in pairs} | {("document", p.positive): unit(0.5) for p in pairs}

    def planted(count):
        return rows | {("document", p.negatives[0]): unit(0.2 if n < count else 0.8) for n, p in enumerate(pairs)}

    few, many = (
        codes(pairs, encoder=told(monkeypatch, planted(c)), model_name="told")["negatives_above_positive"] for c in (20, 100)
    )
    assert (few.count, few.total, few.severity) == (20, 200, "info")
    assert (many.count, many.severity) == (100, "warning")
    assert few.low <= 0.1 <= few.high
    assert few.examples[0].where in {f"pairs[{n}]" for n in range(20)}
    assert "--model told --review" in few.remedy


def test_negatives_no_nearer_than_chance_are_easy_and_near_ones_are_not(monkeypatch):
    pairs = [replace(p, negatives=(f"negative number {n} of them all",)) for n, p in enumerate(faults.clean_pairs(200))]
    rows = {("query", p.query): unit(2 * np.pi * n / 200) for n, p in enumerate(pairs)}
    rows |= {("document", p.positive): unit(2 * np.pi * n / 200) for n, p in enumerate(pairs)}
    rng = np.random.default_rng(0)
    near = rows | {("document", p.negatives[0]): unit(2 * np.pi * n / 200 + 0.3) for n, p in enumerate(pairs)}
    far = rows | {("document", p.negatives[0]): unit(rng.uniform(0, 2 * np.pi)) for p in pairs}
    assert "easy_negatives" not in codes(pairs, encoder=told(monkeypatch, near), model_name="told")
    assert codes(pairs, encoder=told(monkeypatch, far), model_name="told")["easy_negatives"].severity == "warning"


def test_scores_that_a_model_follows_are_info_and_others_a_warning(monkeypatch):
    pairs = [replace(p, score=n / 100) for n, p in enumerate(faults.clean_pairs(100))]
    rows = {("query", p.query): unit(0) for p in pairs}
    follows = rows | {("document", p.positive): unit(1.5 - n / 100) for n, p in enumerate(pairs)}
    against = rows | {("document", p.positive): unit(n / 100) for n, p in enumerate(pairs)}
    found = codes(pairs, encoder=told(monkeypatch, follows), model_name="told")["scores_and_model"]
    assert (found.severity, found.count) == ("info", 0)
    assert "rank correlation of 1.00" in found.what
    found = codes(pairs, encoder=told(monkeypatch, against), model_name="told")["scores_and_model"]
    assert (found.severity, found.count, found.total) == ("warning", 50, 100)
    assert found.examples[0].text.startswith("score ")

"""Laws of two modalities in one space, each against the plain loops of its definition."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.errors import BadInput, Mismatch
from nearfar.metrics import first_ranks, modality_gap, nearness
from nearfar.metrics import modalities as module


def units(n, d, seed, shift=0.0):
    rows = np.random.default_rng(seed).standard_normal((n, d)) + shift
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_gap_is_the_length_of_the_difference_of_the_means_of_unit_rows():
    a, b = units(7, 5, 0, shift=1.0), units(9, 5, 1)
    mean = [sum(row[i] for row in a) / 7 - sum(row[i] for row in b) / 9 for i in range(5)]
    assert modality_gap(a, b).distance == pytest.approx(sum(x * x for x in mean) ** 0.5)
    assert modality_gap(3 * a, b) == pytest.approx(modality_gap(a, b))  # rows are made unit


def test_the_gap_of_a_modality_to_itself_is_zero_and_of_opposites_two():
    a = np.tile(units(1, 4, 0), (3, 1))
    assert modality_gap(a, a).distance == 0
    assert modality_gap(a, -a).distance == pytest.approx(2)


def test_two_halves_of_one_distribution_have_the_gap_of_chance():
    rng = np.random.default_rng(3)
    squares, expected = [], []
    for _ in range(200):
        rows = units(60, 8, int(rng.integers(1 << 30)), shift=0.5)
        found = modality_gap(rows[:25], rows[25:])
        squares.append(found.distance**2)
        expected.append(found.by_chance**2)
    assert np.mean(squares) == pytest.approx(np.mean(expected), rel=0.1)


def plain_rank(query, documents, relevant):
    order = sorted(range(len(documents)), key=lambda row: (-float(query @ documents[row]), row))
    return next(place for place, row in enumerate(order, 1) if row in relevant)


@pytest.mark.parametrize("at_once", [1, 50, 1 << 22])
def test_the_first_rank_is_that_of_a_sort(monkeypatch, at_once):
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    # small whole numbers: exact, and tied more often than not
    queries, documents = rng.integers(-2, 3, (30, 3)).astype(float), rng.integers(-2, 3, (17, 3)).astype(float)
    relevant = [rng.choice(17, size=rng.integers(1, 4), replace=False) for _ in range(30)]
    expected = [plain_rank(q, documents, set(r.tolist())) for q, r in zip(queries, relevant, strict=True)]
    assert first_ranks(queries, documents, relevant).tolist() == expected


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_nearness_is_that_of_plain_loops(monkeypatch, at_once):
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    rows, others = units(12, 4, 0), units(9, 4, 1)
    partners = [rng.choice(9, size=rng.integers(1, 3), replace=False).tolist() for _ in range(12)]
    found = nearness(rows, others, partners)
    for i in range(12):
        strangers = [j for j in range(12) if not set(partners[j]) & set(partners[i])]
        assert found.partner[i] == pytest.approx(max(rows[i] @ others[j] for j in partners[i]))
        assert found.own[i] == pytest.approx(max(rows[i] @ rows[j] for j in strangers))
        assert found.other[i] == pytest.approx(max(rows[i] @ others[j] for j in range(9) if j not in partners[i]))


def test_a_row_without_strangers_is_near_to_none():
    found = nearness(units(2, 3, 0), units(1, 3, 1), [[0], [0]])
    assert found.own.tolist() == [-np.inf, -np.inf]
    assert found.other.tolist() == [-np.inf, -np.inf]


def test_what_cannot_be_measured_is_refused():
    a = units(3, 4, 0)
    with pytest.raises(BadInput, match="no row"):
        modality_gap(a, a[:0])
    with pytest.raises(Mismatch, match="cannot be compared"):
        modality_gap(a, units(3, 5, 0))
    with pytest.raises(BadInput, match="query 1: it has no relevant"):
        first_ranks(a, a, [[0], [], [1]])
    with pytest.raises(Mismatch, match="one for each"):
        first_ranks(a, a, [[0]])
    with pytest.raises(BadInput, match="row 2: it has no partner"):
        nearness(a, a, [[0], [1], []])

"""Shuffled positives where single texts say too little: what the file says is of one thing is asked together."""

import numpy as np
import pytest
import torch

from nearfar.auditing import material_of
from nearfar.auditing.matching import check_matching, percentiles
from nearfar.types import Pair

from faults import shuffle

LABELS, EACH = 40, 30


def intents(*, grouped: bool, seed: int = 0) -> list[Pair]:
    """Pairs of two texts of one intent: a few of its many words, and some that all intents share."""
    rng = np.random.default_rng(seed)
    found = []
    for label in range(LABELS):
        own = [f"w{label}x{number}" for number in range(40)]
        for _ in range(EACH):
            texts = [" ".join([*rng.choice(own, 6, replace=False), *(f"s{n}" for n in rng.choice(50, 6))]) for _ in range(2)]
            found.append(Pair(*texts, group=str(label) if grouped else None))
    return found


class Noisy:
    """Sees which intent the words are of, through far louder directions that say nothing and are the same for all."""

    dim, device = 24, torch.device("cpu")

    def __init__(self):
        self.things = np.random.default_rng(1).standard_normal((LABELS, 12)).astype(np.float32)

    def prepare(self, items, role="document"):
        return Items(list(items))

    def __call__(self, inputs):
        return torch.from_numpy(np.stack([self.row(item) for item in inputs.items]))

    def row(self, item: str) -> np.ndarray:
        rng = np.random.default_rng(abs(sum(map(ord, item))) * 1009 + len(item))
        row = np.concatenate([self.things[int(item[1 : item.index("x")])], 12 * rng.standard_normal(12).astype(np.float32)])
        return row / np.linalg.norm(row)

    def fingerprint(self):
        return "sha256:noisy"


class Items:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def select(self, rows):
        return Items([self.items[row] for row in np.asarray(rows)])


def said(pairs, encoder=None):
    (found,) = check_matching(material_of(pairs, encoder=encoder, model_name="noisy"))
    return found


@pytest.mark.parametrize("encoder", [None, Noisy()], ids=["words", "model"])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_shuffled_positives_are_told_where_groups_are_and_not_where_they_are_not(encoder, share):
    spoiled, truth = shuffle(intents(grouped=True), share, np.random.default_rng(0))
    found = said(spoiled, encoder)
    assert found.severity in ("warning", "critical")
    assert found.low <= truth <= found.high
    alone = said([Pair(p.query, p.positive) for p in spoiled], encoder)
    assert alone.high - alone.low > found.high - found.low


@pytest.mark.parametrize("encoder", [None, Noisy()], ids=["words", "model"])
def test_a_clean_file_with_groups_gives_nothing_above_info(encoder):
    found = said(intents(grouped=True), encoder)
    assert found.severity == "info"
    assert found.high < 0.02


def test_one_group_that_holds_most_pairs_says_nothing():
    pairs = intents(grouped=False)
    held = [Pair(p.query, p.positive, group="all") for p in pairs]
    for these in (pairs, held):
        rows, ranks = percentiles(material_of(these))
        assert np.isfinite(ranks).all()
        assert len(rows) == len(pairs)
    assert np.array_equal(percentiles(material_of(pairs))[1], percentiles(material_of(held))[1])


def test_groups_of_one_change_nothing():
    pairs = intents(grouped=False)
    own = [Pair(p.query, p.positive, group=str(number)) for number, p in enumerate(pairs)]
    for encoder in (None, Noisy()):
        one, other = (percentiles(material_of(these, encoder=encoder))[1] for these in (pairs, own))
        assert np.array_equal(one, other)

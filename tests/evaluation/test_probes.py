"""Neighbours vote and a linear layer tells, as written out in loops; rows that fell together have an effective rank of one."""

import numpy as np
import pytest
import torch

from nearfar.errors import BadConfig, BadInput
from nearfar.evaluation import effective_rank, knn_accuracy, knn_classes, linear_probe


def clusters(count, classes=3, dim=6, spread=0.3, seed=0):
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    rows = centres[labels] + spread * rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 5, 40, 500])
def test_neighbours_vote_as_in_the_paper(k):
    bank, labels = clusters(40, spread=1.5)
    rows, wanted = clusters(30, spread=1.5, seed=1)
    told = []
    for row in rows:
        scores = bank.astype(np.float64) @ row
        nearest = np.argsort(-scores, kind="stable")[:k]
        votes = np.zeros(3)
        for j in nearest:
            votes[labels[j]] += np.exp(scores[j] / 0.07)
        told.append(votes.argmax())
    assert (knn_classes(rows, bank, labels, k=k) == told).all()
    assert knn_accuracy(rows, wanted, bank, labels, k=k).mean() == (np.array(told) == wanted).mean()


def test_a_row_that_is_excluded_has_no_vote():
    rows, labels = clusters(20)
    own = np.arange(20)
    found = knn_classes(rows, rows, labels, k=3, exclude=own)
    for i in range(20):
        rest = np.delete(own, i)
        assert found[i] == knn_classes(rows[i : i + 1], rows[rest], labels[rest], k=3)[0]


def test_a_linear_layer_tells_what_a_line_divides_and_is_a_minimum_of_its_loss():
    bank, labels = clusters(200)
    rows, wanted = clusters(100, seed=1)
    assert linear_probe(rows, wanted, bank, labels).mean() > 0.9
    same = [linear_probe(rows, wanted, bank, labels) for _ in range(2)]
    assert (same[0] == same[1]).all()
    from nearfar.evaluation.probes import _fit

    known, targets = torch.from_numpy(bank), torch.from_numpy(labels)
    weights = _fit(known, targets, 3, 0.01).requires_grad_()
    loss = torch.nn.functional.cross_entropy(known @ weights[:-1] + weights[-1], targets) + 0.005 * weights[:-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.abs().max()) < 1e-3


def test_the_effective_rank_counts_directions():
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.ones((7, 4))) == pytest.approx(1)
    assert effective_rank(np.zeros((3, 4))) == 0


def test_what_cannot_be_judged_says_why():
    rows, labels = clusters(30)
    with pytest.raises(BadInput, match="bank: expected 30 labels"):
        knn_classes(rows, rows, labels[:-1])
    with pytest.raises(BadInput, match="rows: expected"):
        knn_accuracy(rows, labels - 5, rows, labels)
    with pytest.raises(BadConfig, match="k=0"):
        knn_classes(rows, rows, labels, k=0)
    with pytest.raises(BadInput, match="two classes"):
        linear_probe(rows, labels, rows, np.zeros(30, np.int64))

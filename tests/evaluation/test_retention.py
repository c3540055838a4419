"""What is left of what a model could do: the overlap of neighbours against plain loops, and what a retention task says."""

import numpy as np
import pytest
import torch

from nearfar.data.tasks import task_from_pairs
from nearfar.encoders import StaticEncoder
from nearfar.errors import BadInput, Mismatch
from nearfar.evaluation import compare_neighbours, evaluate, judge_retention, neighbour_overlap

from tiny import tiny_pairs, tiny_tokenizer


def rows(n=60, d=8, seed=0):
    found = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def table(seed):
    weight = torch.randn(tiny_tokenizer().get_vocab_size(), 16, generator=torch.Generator().manual_seed(seed))
    return StaticEncoder(weight, tiny_tokenizer())


def test_the_overlap_is_that_of_plain_loops():
    a, b = rows(seed=0), rows(d=5, seed=1)
    found = neighbour_overlap(a, b, 7)
    for i in range(len(a)):
        near = [
            {j for j in sorted(range(len(x)), key=lambda j: -float(x[i] @ x[j])) if j != i and rank(x, i, j) < 7}
            for x in (a, b)
        ]
        assert found[i] == pytest.approx(len(near[0] & near[1]) / 7)


def rank(x, i, j):
    return sum(float(x[i] @ x[o]) > float(x[i] @ x[j]) for o in range(len(x)) if o not in (i, j))


def test_a_rotated_model_keeps_every_neighbour():
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0].astype(np.float32)
    assert neighbour_overlap(rows(), rows() @ turn) == pytest.approx(np.ones(60))


def test_unrelated_models_agree_as_often_as_chance():
    found = neighbour_overlap(rows(800, seed=3), rows(800, seed=4))
    assert found.mean() == pytest.approx(10 / 799, abs=0.005)


def test_the_same_model_keeps_all_and_another_does_not():
    texts = [pair.query for pair in tiny_pairs(150)]
    same = compare_neighbours(table(0), table(0), texts, source="texts").overlap
    assert same is not None
    assert same[:3] == (1, 1, 1)
    other = compare_neighbours(table(0), table(1), texts, source="texts")
    assert other.overlap is not None
    assert 0 < other.overlap.low < other.overlap.mean < other.overlap.high < 0.9
    assert other.verdict == "not judged"
    assert "150 texts" in other.sentences[0]
    assert other.to_json()["kind"] == "neighbours"


def test_rows_of_other_texts_and_too_few_texts_are_refused():
    with pytest.raises(Mismatch, match="same texts"):
        neighbour_overlap(rows(20), rows(21))
    with pytest.raises(BadInput, match="more texts"):
        neighbour_overlap(rows(11), rows(11))


def test_a_retention_task_says_forgetting_loudly_and_only_where_it_is_shown():
    easy = task_from_pairs("easy", [type(p)(p.query, p.query) for p in tiny_pairs(60)])
    good = evaluate(table(0), easy, name="start")
    hard = task_from_pairs("easy", tiny_pairs(60))
    assert judge_retention(good, good, "ndcg@10").sentences[0].startswith("Retention: no change is shown")
    forgetful = StaticEncoder(torch.ones(tiny_tokenizer().get_vocab_size(), 4), tiny_tokenizer())
    bad = judge_retention(good, evaluate(forgetful, easy, name="trained"), "ndcg@10")
    assert bad.verdict == "worse"
    assert bad.sentences[0].startswith("FORGETTING is shown")
    assert bad.to_json()["comparison"]["difference"] < 0
    with pytest.raises(Mismatch):
        judge_retention(good, evaluate(table(0), hard), "ndcg@10")

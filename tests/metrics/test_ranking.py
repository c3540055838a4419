"""Ranking metrics: pytrec_eval, and slow obvious loops."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import BadConfig, BadInput, Mismatch
from nearfar.metrics import Metric, label, order_by_score, parse_metric, score_run

METRICS = ("ndcg@1", "ndcg@10", "recall@5", "recall@10", "mrr@10", "map@7", "map@100", "precision@10", "success@1", "success@5")
TREC = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut", "precision": "P", "success": "success"}


def random_run(seed: int, *, queries: int = 40, values: int = 6, top_grade: int = 3):
    """Rankings of 0..60 documents whose scores take few values (so most are tied), and judgements partly outside of them."""
    rng = np.random.default_rng(seed)
    names = [f"d{n}" for n in rng.permutation(80)]
    run, judged = {}, {}
    for q in range(queries):
        chosen = rng.choice(names, size=rng.integers(1, 61), replace=False)
        run[f"q{q}"] = {str(d): float(rng.integers(values)) / 4 for d in chosen}
        grades = {str(d): int(rng.integers(top_grade + 1)) for d in rng.choice(names, size=rng.integers(1, 30), replace=False)}
        grades[str(names[rng.integers(80)])] = 1 + int(rng.integers(top_grade))
        judged[f"q{q}"] = grades
    return run, judged


def trec(run, judged, metric: str) -> np.ndarray:
    kind, k = parse_metric(metric)
    if kind == "mrr":  # trec_eval has no cutoff for it: the run is cut by trec_eval's own order
        cut = {q: {d: docs[d] for d in sorted(docs, key=lambda d: (docs[d], d), reverse=True)[:k]} for q, docs in run.items()}
        found = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(cut)
        return np.array([found[q]["recip_rank"] for q in judged])
    found = pytrec_eval.RelevanceEvaluator(judged, {f"{TREC[kind]}.{k}"}).evaluate(run)
    return np.array([found[q][f"{TREC[kind]}_{k}"] for q in judged])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_trec_evals_on_random_rankings_with_ties(metric, seed):
    run, judged = random_run(seed)
    ours = score_run([order_by_score(run[q]) for q in judged], list(judged.values()), [metric])[metric]
    np.testing.assert_allclose(ours, trec(run, judged, metric), rtol=0, atol=1e-12)


def test_exponential_gain_is_trec_evals_linear_gain_of_transformed_grades():
    run, judged = random_run(7, top_grade=4)
    ranked = [order_by_score(run[q]) for q in judged]
    ours = score_run(ranked, list(judged.values()), ["ndcg@10"], gain="exponential")["ndcg@10"]
    raised = {q: {d: 2**g - 1 for d, g in grades.items()} for q, grades in judged.items()}
    np.testing.assert_allclose(ours, trec(run, raised, "ndcg@10"), rtol=0, atol=1e-12)
    assert not np.allclose(ours, score_run(ranked, list(judged.values()), ["ndcg@10"])["ndcg@10"])


def by_loops(ranked: list[int], grades: dict[int, int], kind: str, k: int, gain: str) -> float:
    def worth(grade: int) -> float:
        return 0.0 if grade <= 0 else float(grade) if gain == "linear" else 2.0**grade - 1

    top = ranked[:k]
    hits = [grades.get(d, 0) > 0 for d in top]
    total = sum(g > 0 for g in grades.values())
    if kind == "ndcg":
        best = sorted(grades.values(), reverse=True)[:k]
        dcg = sum(worth(grades.get(d, 0)) / math.log2(place + 2) for place, d in enumerate(top))
        return dcg / sum(worth(g) / math.log2(place + 2) for place, g in enumerate(best))
    if kind == "mrr":
        return next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
    if kind == "map":
        return sum(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit) / total
    return {"recall": sum(hits) / total, "precision": sum(hits) / k, "success": float(any(hits))}[kind]


def problems():
    documents = st.integers(0, 30)
    grades = st.dictionaries(documents, st.integers(-1, 4), max_size=12).filter(lambda g: any(v > 0 for v in g.values()))
    return st.lists(st.tuples(st.lists(documents, unique=True, max_size=25), grades), min_size=1, max_size=6)


@given(
    problem=problems(),
    kind=st.sampled_from(["ndcg", "recall", "mrr", "map", "precision", "success"]),
    k=st.integers(1, 40),
    gain=st.sampled_from(["linear", "exponential"]),
)
def test_every_metric_equals_the_loops(problem, kind, k, gain):
    ranked, judged = zip(*problem, strict=True)
    ours = score_run(ranked, judged, [f"{kind}@{k}"], gain=gain)[f"{kind}@{k}"]
    expected = [by_loops(r, j, kind, k, gain) for r, j in problem]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@given(problem=problems(), tail=st.integers(0, 20))
def test_every_metric_is_within_0_and_1_and_blind_to_what_follows_its_cutoff(problem, tail):
    ranked, judged = zip(*problem, strict=True)
    scores = score_run(ranked, judged, METRICS)
    assert all(((values >= 0) & (values <= 1 + 1e-12)).all() for values in scores.values())
    at_5 = ["ndcg@5", "recall@5", "mrr@5", "map@5", "precision@5", "success@5"]
    longer = [list(r[:5]) + [100 + n for n in range(tail)] if len(r) >= 5 else r for r in ranked]
    for name, values in score_run(longer, judged, at_5).items():
        np.testing.assert_array_equal(values, score_run(ranked, judged, at_5)[name])


@given(problem=problems())
def test_a_query_scores_the_same_bits_alone_as_among_others(problem):
    ranked, judged = zip(*problem, strict=True)
    together = score_run(ranked, judged, METRICS)
    for number, (r, j) in enumerate(problem):
        assert {name: values[number] for name, values in together.items()} == {
            name: values[0] for name, values in score_run([r], [j], METRICS).items()
        }


@given(grades=st.dictionaries(st.integers(), st.integers(1, 5), min_size=1, max_size=20), k=st.integers(1, 30))
def test_the_ideal_ranking_scores_exactly_one(grades, k):
    ideal = sorted(grades, key=lambda d: -grades[d])
    scores = score_run([ideal], [grades], [f"ndcg@{k}", f"mrr@{k}", f"success@{k}"])
    assert all(values[0] == 1 for values in scores.values())


@given(scores=st.dictionaries(st.text(max_size=3), st.sampled_from([0.0, 0.5, 1.0]), max_size=12), seed=st.integers(0, 99))
def test_the_order_of_ties_does_not_depend_on_the_order_of_the_file(scores, seed):
    keys = list(scores)
    np.random.default_rng(seed).shuffle(keys)
    assert order_by_score({key: scores[key] for key in keys}) == order_by_score(scores)
    assert order_by_score(scores) == sorted(scores, key=lambda key: (scores[key], key), reverse=True)


def test_an_empty_ranking_scores_zero_and_no_rankings_score_nothing():
    assert score_run([[]], [{"a": 1}], METRICS) == {name: np.zeros(1) for name in METRICS}
    assert all(len(values) == 0 for values in score_run([], [], METRICS).values())


def test_a_query_without_a_relevant_document_is_refused_not_scored_zero():
    with pytest.raises(BadInput, match="ranking 1: its query has no relevant document"):
        score_run([["a"], ["a"]], [{"a": 1}, {"a": 0, "b": -1}], ["ndcg@10"])


def test_a_document_ranked_twice_is_refused():
    with pytest.raises(BadInput, match="ranking 0: document 'b' is ranked twice"):
        score_run([["a", "b", "b"]], [{"a": 1}], ["ndcg@10"])


def test_rankings_without_their_judgements_are_refused():
    with pytest.raises(Mismatch, match="2 rankings and 1 sets of judgements"):
        score_run([["a"], ["a"]], [{"a": 1}], ["ndcg@10"])


def test_a_nan_score_has_no_place_in_a_ranking():
    with pytest.raises(BadInput, match="'b' is NaN"):
        order_by_score({"a": 1.0, "b": math.nan})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ndgc@10", "ndcg@10"), ("ndcg", "ndcg@10"), ("ndcg@0", "ndcg@10"), ("ndcg_cut_5", "ndcg@5"), ("recal@20", "recall@20"),
        ("precison@-3", "precision@3"), ("mrr@ten", "mrr@10"), ("sucess@1", "success@1"),
        ("", "Metrics are"), ("@", "Metrics are"),
    ],
)  # fmt: skip
def test_an_unknown_metric_names_the_nearest(name, nearest):
    with pytest.raises(BadConfig, match=nearest):
        parse_metric(name)


def test_an_unknown_gain_is_refused():
    with pytest.raises(BadConfig, match="linear or exponential, found 'log'"):
        score_run([["a"]], [{"a": 1}], ["ndcg@10"], gain="log")  # pyright: ignore[reportArgumentType]


def test_a_metric_is_read_in_any_case_and_filed_under_one_name():
    assert parse_metric(" nDCG@10 ") == Metric("ndcg", 10)
    assert list(score_run([["a"]], [{"a": 1}], ["nDCG@10", "MRR@5"])) == ["ndcg@10", "mrr@5"]
    assert [label(name) for name in ("ndcg@10", "mrr@5", "recall@100")] == ["nDCG@10", "MRR@5", "Recall@100"]

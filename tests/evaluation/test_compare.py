"""Comparisons: paired statistics, refusals, the queries that changed, and the table."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nearfar.errors import BadConfig, Mismatch
from nearfar.evaluation import Comparison, Evaluation, compare, evaluate, fingerprint_task, rank_changes, score_table
from nearfar.metrics import paired_difference, score_run
from nearfar.types import Task

METRICS = ("ndcg@10", "recall@10", "mrr@10")
TASK = Task(
    "letters",
    {letter: f"text of {letter}" for letter in "abcdefgh"},
    {f"q{n}": f"question {n}" for n in range(4)},
    {"q0": {"a": 1}, "q1": {"b": 2, "c": 1}, "q2": {"d": 1}, "q3": {"e": 1}},
)


def by_hand(system: str, *ranked: str, task: Task = TASK) -> Evaluation:
    """An evaluation of these rankings, one letter per document."""
    rows = tuple(tuple(row) for row in ranked)
    return Evaluation(
        system, task.name, fingerprint_task(task), tuple(task.queries),
        score_run(rows, list(task.judgements.values()), METRICS), rows,
        tuple(tuple(float(len(row) - n) for n in range(len(row))) for row in rows), 8, "linear", 0, 0,
    )  # fmt: skip


OLD = by_hand("old", "ha", "bc", "gfhd", "h")
NEW = by_hand("new", "ah", "hgfcb", "gfd", "")


def random_evaluations(n: int = 60) -> tuple[Evaluation, Evaluation]:
    rng = np.random.default_rng(0)
    corpus = {f"d{i}": f"text {i}" for i in range(20)}
    task = Task("random", corpus, {f"q{i}": f"query {i}" for i in range(n)}, {f"q{i}": {f"d{i % 20}": 1} for i in range(n)})
    found = []
    for name, skill in (("weak", 0.2), ("strong", 0.7)):
        rows = []
        for i in range(n):
            rest = [f"d{j}" for j in rng.permutation(20) if j != i % 20]
            place = 0 if rng.random() < skill else int(rng.integers(1, 19))
            rows.append((*rest[:place], f"d{i % 20}", *rest[place:]))
        made = by_hand(name, *["a"] * n, task=task)
        metrics = score_run(rows, list(task.judgements.values()), METRICS)
        found.append(
            replace(made, ranked=tuple(rows), scores=tuple(tuple(map(float, range(20, 0, -1))) for _ in rows), metrics=metrics)
        )
    return found[0], found[1]


def test_a_comparison_is_the_paired_difference_of_the_metric():
    weak, strong = random_evaluations()
    found = compare(strong, weak, "nDCG@10")
    expected = paired_difference(strong.metrics["ndcg@10"], weak.metrics["ndcg@10"])
    assert (found.difference, found.low, found.high, found.p, found.better, found.worse) == expected
    assert list(json.loads(json.dumps(found.to_json()))) == [
        "a",
        "b",
        "metric",
        "difference",
        "low",
        "high",
        "p",
        "better",
        "worse",
    ]
    assert (found.a, found.b, found.metric) == ("strong", "weak", "ndcg@10")


def test_a_verdict_needs_p_below_5_percent_and_goes_by_the_sign():
    weak, strong = random_evaluations()
    assert compare(strong, weak).verdict == "improved"
    assert compare(weak, strong).verdict == "worse"
    assert compare(weak, weak).verdict == "not shown"
    assert replace(compare(strong, weak), p=0.05).verdict == "not shown"


def test_queries_are_paired_by_id_in_whatever_order_they_were_read():
    weak, strong = random_evaluations()
    turned = replace(
        weak, query_ids=weak.query_ids[::-1], ranked=weak.ranked[::-1], metrics={k: v[::-1] for k, v in weak.metrics.items()}
    )
    assert compare(strong, turned) == compare(strong, weak)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task_fingerprint": "sha256:0"}, "texts or judgements"), ({"query_ids": ("q0", "q1", "q2", "z")}, "not the same"),
        ({"gain": "exponential"}, "gain is linear for one"), ({"identical_dropped": 3}, "identical_dropped is 0"),
    ],
)  # fmt: skip
def test_evaluations_that_do_not_belong_together_are_refused(change, says):
    with pytest.raises(Mismatch, match=says):
        compare(NEW, replace(OLD, **change))


def test_a_metric_that_was_not_measured_is_refused_naming_those_that_were():
    with pytest.raises(BadConfig, match=r"map@10 was not measured for new; measured: ndcg@10, recall@10, mrr@10"):
        compare(NEW, OLD, "map@10")


def test_rank_changes_are_the_queries_that_changed_most_with_what_was_found_before_and_after():
    gained, lost = rank_changes(NEW, OLD, TASK, 5)
    assert [(c.query_id, c.before, c.after) for c in gained] == [("q0", 2, 1), ("q2", 4, 3)]
    assert [(c.query_id, c.before, c.after) for c in lost] == [("q1", 1, 4)]
    assert gained[0].difference > gained[1].difference > 0 > lost[0].difference
    first = gained[0]
    assert (first.query, first.relevant_id, first.relevant) == ("question 0", "a", "text of a")
    assert (first.before_id, first.before_top, first.after_id, first.after_top) == ("h", "text of h", "a", "text of a")
    assert lost[0].relevant_id == "b"  # where the better system found it
    assert len(rank_changes(NEW, OLD, TASK, 1).gained) == 1
    assert rank_changes(NEW, OLD, TASK, 0) == ([], [])


def test_a_query_where_nothing_was_found_has_no_rank_and_no_first_document():
    gained, lost = rank_changes(by_hand("new", "a", "b", "d", ""), by_hand("old", "", "b", "d", "e"), TASK)
    assert (gained[0].before, gained[0].before_id, gained[0].before_top) == (None, None, "")
    assert (lost[0].after, lost[0].after_id, lost[0].relevant_id) == (None, None, "e")


def test_rank_changes_refuse_another_task():
    with pytest.raises(Mismatch, match="not what new was evaluated on"):
        rank_changes(NEW, OLD, replace(TASK, queries={**TASK.queries, "q0": "else"}))


def test_the_table_shows_every_system_and_comparison_within_100_columns():
    weak, strong = random_evaluations()
    named = replace(weak, system="sentence-transformers/a-name-that-goes-on-and-on-and-on")
    table = score_table(
        [named, strong, replace(OLD, metrics={"map@100": np.array([0.5])})], [compare(strong, named, m) for m in METRICS]
    )
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    mean = strong.summary()["ndcg@10"]
    assert any(
        line.startswith("strong") and f"{mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]" in line for line in lines
    )
    assert any("strong vs sentence-tr" in line and "improved" in line and "<0.001" in line for line in lines)
    assert all(name in table for name in ("nDCG@10", "Recall@10", "MRR@10", "MAP@100"))


def test_a_table_of_long_names_and_large_counts_still_fits():
    found = Comparison("a" * 80, "b" * 80, "precision@1000", -0.1234, -0.2, -0.1, 0.0312, 123456, 654321)
    table = score_table([], [found])
    assert max(map(len, table.splitlines())) <= 100
    assert "-0.123 [-0.200, -0.100]  0.031  123456  654321  worse" in table


def test_a_table_of_nothing_is_empty():
    assert score_table([]) == ""


def test_bm25_compares_with_itself_without_any_difference():
    task = Task("t", {"a": "red cat", "b": "dog"}, {"q": "cat"}, {"q": {"a": 1}})
    found = compare(evaluate("bm25", task), evaluate("bm25", task))
    assert (found.difference, found.p, found.better, found.worse, found.verdict) == (0, 1, 0, 0, "not shown")

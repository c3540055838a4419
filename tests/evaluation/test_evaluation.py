"""Evaluations: trec_eval on the same rankings, ties, skipped queries, queries that are documents, files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch

from nearfar.data.tasks import read_task
from nearfar.errors import BadConfig, BadInput, Damaged
from nearfar.evaluation import Evaluation, evaluate, fingerprint_task
from nearfar.types import Task

SHARED = Path(__file__).parents[3] / "shared" / "data"


class Counts:
    """Prepared texts: their rows, made at once."""

    def __init__(self, rows: torch.Tensor, lengths: np.ndarray) -> None:
        self.rows, self.lengths = rows, lengths

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> "Counts":
        return Counts(self.rows[torch.as_tensor(rows)], self.lengths[rows])


class WordCounter(torch.nn.Module):
    """An encoder of integers: how often each of a few words occurs, so that scores are exact and mostly tied."""

    words = ("red", "green", "blue", "cat", "dog", "tree")
    dim = 6
    device = torch.device("cpu")

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.scale = torch.nn.Parameter(torch.ones(()))

    def prepare(self, items, role="document") -> Counts:
        rows = torch.tensor([[float(text.split().count(word)) for word in self.words] for text in items]).reshape(-1, self.dim)
        if self.broken and role == "document":
            rows[2] = torch.nan
        return Counts(rows, np.array([len(text.split()) for text in items], dtype=np.int64))

    def forward(self, inputs: Counts) -> torch.Tensor:
        return inputs.rows * self.scale

    def save(self, folder) -> None:
        raise AssertionError("an evaluation saves no encoder")

    def fingerprint(self) -> str:
        return "sha256:words"


def toy(seed: int = 0, *, documents: int = 60, queries: int = 25) -> Task:
    rng = np.random.default_rng(seed)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WordCounter.words, size=rng.integers(low, high)))

    corpus = {f"d{n}": text(3, 9) for n in rng.permutation(documents)}
    asked = {f"q{n}": text(1, 4) for n in range(queries)}
    judged = {
        query: {f"d{n}": int(rng.integers(4)) for n in rng.choice(documents, 8, replace=False)} | {"d0": 1} for query in asked
    }
    return Task("toy", corpus, asked, judged)


def test_an_encoders_figures_are_trec_evals_on_its_own_tied_scores():
    task, counter = toy(), WordCounter()
    found = evaluate(counter, task, metrics=("ndcg@10", "recall@20", "map@50"))
    rows = {key: counter(counter.prepare([text])).squeeze(0) for key, text in {**task.corpus, **task.queries}.items()}
    run = {q: {d: float(rows[q].detach() @ rows[d].detach()) for d in task.corpus} for q in task.queries}
    assert sum(len(set(scores.values())) < len(scores) / 2 for scores in run.values()) > 20  # ties are the rule
    judge = pytrec_eval.RelevanceEvaluator(task.judgements, {"ndcg_cut.10", "recall.20", "map_cut.50"})
    theirs = judge.evaluate(run)
    for ours, trec in (("ndcg@10", "ndcg_cut_10"), ("recall@20", "recall_20"), ("map@50", "map_cut_50")):
        np.testing.assert_allclose(found.metrics[ours], [theirs[q][trec] for q in found.query_ids], rtol=0, atol=1e-12)
    assert found.model_fingerprint == "sha256:words"
    assert set(found.seconds) == {"documents", "queries", "search"}


@pytest.mark.parametrize("system", ["bm25", WordCounter()])
def test_no_result_depends_on_the_order_of_the_files(system):
    task = toy()
    turned = Task("toy", *(dict(reversed(part.items())) for part in (task.corpus, task.queries, task.judgements)))
    a, b = evaluate(system, task), evaluate(system, turned)
    assert a.task_fingerprint == b.task_fingerprint
    assert dict(zip(a.query_ids, a.ranked, strict=True)) == dict(zip(b.query_ids, b.ranked, strict=True))


@pytest.mark.parametrize("system", ["bm25", WordCounter()])
def test_rankings_are_best_first_without_repeats_and_within_the_depth(system):
    found = evaluate(system, toy(), depth=20, name="mine")
    assert found.system == "mine"
    for keys, scores in zip(found.ranked, found.scores, strict=True):
        assert len(keys) == len(set(keys)) == len(scores) <= 20
        assert list(zip(scores, keys, strict=True)) == sorted(zip(scores, keys, strict=True), reverse=True)


def test_queries_without_a_relevant_document_are_left_out_and_counted():
    task = toy()
    judged = {q: grades for q, grades in task.judgements.items() if q != "q3"} | {"q5": {"d1": 0}}
    found = evaluate(WordCounter(), Task("toy", task.corpus, task.queries, judged))
    assert found.skipped == 2
    assert not {"q3", "q5"} & set(found.query_ids)
    assert len(found.query_ids) == len(found.metrics["ndcg@10"]) == 23


def test_a_query_that_is_a_document_does_not_find_itself_unless_told_or_judged():
    corpus = {"a": "red cat tree", "b": "red cat", "c": "dog", "x": "blue"}
    task = Task("arguments", corpus, {"a": "red cat tree", "c": "dog"}, {"a": {"b": 1}, "c": {"c": 1}})
    found = evaluate(WordCounter(), task, depth=10)
    assert found.ranked[0] == ("b", "x", "c")
    assert found.ranked[1][0] == "c"  # judged relevant to itself: kept
    assert found.identical_dropped == 1
    kept = evaluate(WordCounter(), task, depth=10, ignore_identical_ids=False)
    assert kept.ranked[0][0] == "a"
    assert kept.identical_dropped == 0


def test_ids_that_are_shared_by_numbering_alone_drop_nothing():
    corpus = {"1": "red cat", "2": "dog tree", "3": "blue"}
    found = evaluate(
        WordCounter(), Task("numbered", corpus, {"1": "dog", "2": "red"}, {"1": {"2": 1}, "2": {"1": 1}}), depth=10
    )
    assert found.identical_dropped == 0
    assert all(len(row) == 3 for row in found.ranked)


def test_bm25_leaves_out_the_query_itself_and_still_reaches_the_depth():
    corpus = {f"d{n}": f"red cat number{n}" for n in range(30)}
    task = Task("arguments", corpus, {"d7": corpus["d7"]}, {"d7": {"d3": 1}})
    found = evaluate("bm25", task, depth=10)
    assert len(found.ranked[0]) == 10
    assert "d7" not in found.ranked[0]


def test_bm25_does_not_rank_documents_that_share_no_word():
    found = evaluate(
        "bm25", Task("t", {"a": "red cats", "b": "a dog", "c": "the cat"}, {"q": "cat"}, {"q": {"a": 1}}), depth=10
    )
    assert sorted(found.ranked[0]) == ["a", "c"]  # stemmed, without stop words


def test_the_summary_is_the_mean_within_its_interval_as_json():
    summary = json.loads(json.dumps(evaluate("bm25", toy()).summary()))
    assert list(summary) == ["ndcg@10", "recall@10", "mrr@10"]
    assert all(set(found) == {"mean", "low", "high"} for found in summary.values())
    assert all(0 <= found["low"] <= found["mean"] <= found["high"] <= 1 for found in summary.values())


@pytest.mark.parametrize("system", ["bm25", WordCounter()])
def test_a_saved_evaluation_loads_equal(tmp_path, system):
    found = evaluate(system, toy(), gain="exponential")
    found.save(tmp_path / "metrics" / "x.json")
    loaded = Evaluation.load(tmp_path / "metrics" / "x.json")
    for name in ("system", "task", "query_ids", "ranked", "scores", "depth", "gain", "skipped", "model_fingerprint", "seconds"):
        assert getattr(loaded, name) == getattr(found, name), name
    for name, values in found.metrics.items():
        np.testing.assert_array_equal(loaded.metrics[name], values)
    assert loaded.to_json() == found.to_json()


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("ranked"), lambda value: value.update(query_ids=["q0"]), lambda value: value["scores"][0].pop(),
        lambda value: value.update(metrics={"ndcg@10": ["x"]}), lambda value: value.update(format="else"),
        lambda value: value.update(metrics=3),
    ],
)  # fmt: skip
def test_a_damaged_evaluation_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "x.json"
    value = evaluate("bm25", toy()).to_json()
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(Damaged, match=re.escape(str(path))):
        Evaluation.load(path)


def test_the_fingerprint_of_a_task_is_blind_to_order_and_name_and_sees_every_text_and_grade():
    task = toy()
    same = Task("other", *(dict(reversed(part.items())) for part in (task.corpus, task.queries, task.judgements)))
    assert fingerprint_task(same) == fingerprint_task(task)
    changed = [
        replace(task, corpus={**task.corpus, "d1": "other"}), replace(task, queries={**task.queries, "q1": "other"}),
        replace(task, judgements={**task.judgements, "q1": {"d1": 3}}),
    ]  # fmt: skip
    assert len({fingerprint_task(one) for one in [task, *changed]}) == 4


def _task(**parts) -> Task:
    return replace(Task("t", {"a": "red"}, {"q": "red"}, {"q": {"a": 1}}), **parts)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (_task(corpus={}), "corpus is empty"), (_task(judgements={"q": {"a": 0}}), "none of 1 queries"),
        (_task(judgements={"q": {"b": 1}}), "document 'b'"), (_task(judgements={"z": {"a": 1}}), "query 'z'"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_measured_is_refused(task, says):
    with pytest.raises(BadInput, match=says):
        evaluate("bm25", task)


@pytest.mark.parametrize(
    ("system", "options", "says"),
    [
        ("bm52", {}, "expected an encoder or 'bm25'"), (object(), {}, "expected an encoder"),
        ("bm25", {"metrics": ["ndcg@200"]}, "at least 200"),
        ("bm25", {"metrics": []}, "at least one metric"), ("bm25", {"metrics": ["ndgc@10"]}, "ndcg@10"),
        ("bm25", {"gain": "x"}, "gain"),
    ],
)  # fmt: skip
def test_an_unknown_system_or_metric_is_refused(system, options, says):
    with pytest.raises(BadConfig, match=says):
        evaluate(system, toy(), **options)


def test_rows_that_are_not_finite_are_refused_not_ranked():
    with pytest.raises(BadInput, match="not finite for 1 of 60 document texts"):
        evaluate(WordCounter(broken=True), toy())


@pytest.mark.skipif(not (SHARED / "cranfield").is_dir(), reason="needs ../shared/data, which is not part of the repository")
@pytest.mark.parametrize(("name", "expected"), [("cranfield", 0.382), ("cisi", 0.386)])
def test_bm25_is_as_good_as_bm25s_by_hand_on_real_collections(name, expected):
    # plain bm25s calls with the same stop words and stemmer; without the stemmer they give 0.352 and 0.349
    found = evaluate("bm25", read_task(SHARED / name).task, gain="exponential")
    assert found.metrics["ndcg@10"].mean() == pytest.approx(expected, abs=0.002)
    assert found.identical_dropped == 0

"""Why a run did not help: each reason appears where its figures do, and nowhere else."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nearfar.encoders.tokens import Tokens
from nearfar.evaluation import Comparison
from nearfar.training import Config
from nearfar.training.dev import DevScore
from nearfar.training.reasons import RunFacts, conclude, find_reasons, read_losses, share_cut

FLAT = Comparison("trained", "start", "ndcg@10", 0.0, 0.0, 0.0, 1.0, 0, 0)
SHOWN = Comparison("trained", "start", "ndcg@10", 0.2, 0.1, 0.3, 0.001, 60, 10)
FAIR = RunFacts(
    config=Config(learning_rate=0.1, batch_size=64),
    curve=[DevScore(0, 0.5, 0, 0, 0), DevScore(8, 0.6, 0.1, 0.05, 0.15), DevScore(16, 0.6, 0.1, 0.04, 0.15)],
    best_step=8,
    steps=16,
    losses=[(3 - n / 10, 64) for n in range(16)],
    comparison=FLAT,
    start_score=0.5,
    judged=100,
    chosen=80,
    own_task=False,
    pairs=1000,
    distinct_documents=900,
    cut_share=0.0,
    max_length=256,
)


def curve(*differences):
    return [DevScore(8 * n, 0.5 + d, d, d - 0.02 * (n > 0), d + 0.02 * (n > 0)) for n, d in enumerate(differences)]


CASES = [
    ({"losses": [(0.98 * math.log(64), 64)] * 16}, "guessing among the positives", "learning rate"),
    ({"losses": [(1.0, 64)] * 16}, "did not fall", "learning_rate=0.5"),
    ({"losses": [(1 + n, 64) for n in range(16)]}, "loss rose", "learning_rate=0.01"),
    ({"curve": curve(0, -0.1, -0.3), "best_step": 0}, "every checkpoint was below the start: -0.100", "learning_rate=0.01"),
    ({"curve": curve(0, 0.2, 0.1)}, "rose to 0.700 at step 8, then fell to 0.600", "epochs=2"),
    ({"curve": curve(0, 0.01), "best_step": 0}, "80 queries do not show that (about", "evaluation.dev"),
    ({"own_task": True}, "ask for different things", "--dev TASK"),
    ({"curve": curve(0, 0.1, 0.2), "best_step": 16}, "still rising", "epochs=8"),
    ({"comparison": replace(FLAT, difference=0.01, low=-0.01, high=0.03, p=0.3)}, "would take about 818", "judge=818"),
    ({"start_score": 0.99}, "0.990 of 1", "harder"),
    ({"cut_share": 0.4}, "40% of the documents", "passages"),
    ({"distinct_documents": 300}, "only 300 different", "near duplicates"),
]


@pytest.mark.parametrize(("change", "found", "advice"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_reason_is_given_where_its_figures_are(change, found, advice):
    [reason] = [r for r in find_reasons(replace(FAIR, **change)) if found in r.found]
    assert advice in reason.advice
    assert find_reasons(FAIR) == []


@pytest.mark.parametrize("comparison", [SHOWN, None])
def test_a_run_that_helped_or_was_not_judged_needs_no_reasons(comparison):
    for change, _, _ in CASES:
        assert find_reasons(replace(FAIR, **change | {"comparison": comparison})) == []


def test_the_share_of_cut_texts_is_that_of_texts_at_the_limit():
    tokens = Tokens.of([[1] * 4, [1] * 8, [1] * 8, [1]])
    assert share_cut(tokens, 8) == 0.5
    assert share_cut(tokens, None) == 0
    assert share_cut(Tokens.of([]), 8) == 0


def test_losses_are_read_from_the_log(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": 2.5, "pairs": 16}\n{"step": 2, "loss": 2.0, "pairs": 8}\n')
    assert read_losses(tmp_path / "steps.jsonl") == [(2.5, 16), (2.0, 8)]
    assert read_losses(tmp_path / "none.jsonl") == []


def test_the_conclusion_says_verdict_scores_interval_and_queries():
    found = conclude(SHOWN, "ndcg@10", (0.5, 0.7), 1500, start_kept=False, judges="task")
    assert found.startswith("IMPROVED")
    for said in ("0.500 before", "0.700 after", "+0.200 [+0.100, +0.300]", "p = 0.001", "1,500 queries (task)"):
        assert said in found
    worse = replace(SHOWN, difference=-0.2, low=-0.3, high=-0.1, p=np.float64(0.0001))
    assert conclude(worse, "ndcg@10", (0.7, 0.5), 9, start_kept=False, judges="t").startswith("WORSE")
    assert "start itself" in conclude(FLAT, "ndcg@10", (0.5, 0.5), 9, start_kept=True, judges="t")
    assert "--eval TASK" in conclude(None, "ndcg@10", (0, 0), 0, start_kept=False, judges="")

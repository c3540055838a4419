"""The share of in-batch columns known to be no negatives, as the log says it, equals plain loops."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.training import parse_settings, train
from nearfar.training.left_out import guide_left_out, left_out_share
from nearfar.types import Targets

from reference import left_out
from tiny import tiny_pairs, tiny_transformer


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(2, 7), extra=st.integers(0, 4), groups=st.booleans(), items=st.booleans())
def test_the_share_left_out_equals_plain_loops(seed, rows, extra, groups, items):
    rng = np.random.default_rng(seed)
    columns = rows + extra

    def ids(count):
        return torch.from_numpy(rng.integers(-1, 4, count))

    positive = torch.from_numpy(rng.permutation(columns)[:rows])
    targets = Targets(
        positive,
        row_groups=ids(rows) if groups else None,
        column_groups=ids(columns) if groups else None,
        row_items=ids(rows) if items else None,
        column_items=ids(columns) if items else None,
    )
    counted = sum(left_out(targets, i, j, int(positive[i])) for i in range(rows) for j in range(columns))
    assert left_out_share(targets, rows, columns) == pytest.approx(counted / (rows * (columns - 1)))


@settings(max_examples=40)
@given(seed=st.integers(0, 999), rows=st.integers(1, 7), extra=st.integers(0, 4), margin=st.sampled_from([0.0, 0.3, -0.2]))
def test_the_share_a_guide_finds_nearer_than_the_positive_equals_plain_loops(seed, rows, extra, margin):
    rng = np.random.default_rng(seed)
    queries, candidates = (torch.from_numpy(rng.normal(size=(count, 3))) for count in (rows, rows + extra))
    positive = torch.from_numpy(rng.permutation(rows + extra)[:rows])
    nearer = sum(
        float(queries[i] @ candidates[j]) > float(queries[i] @ candidates[positive[i]]) - margin
        for i in range(rows)
        for j in range(rows + extra)
        if j != int(positive[i])
    )
    expected = nearer / max(1, rows * (rows + extra - 1))
    assert guide_left_out(queries, candidates, Targets(positive), margin=margin) == pytest.approx(expected)


def test_a_run_with_a_guide_logs_what_it_finds_too_near(tmp_path):
    guide = tiny_transformer(tmp_path / "guide", seed=3)
    settings_ = ["loss.name=gist", f"loss.guide={guide}", "epochs=1", "batch_size=8", "evaluation.dev=0", "evaluation.judge=0"]
    start = tiny_transformer(tmp_path / "start")
    train(
        tiny_pairs(24), out=tmp_path / "run", encoder=start, config=parse_settings([*settings_, "evaluation.outside_texts=0"])
    )
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert steps
    assert all(0 <= step["guide_left_out"] <= 1 for step in steps)
    assert any(step["guide_left_out"] > 0 for step in steps)  # a random guide knows nothing of positives

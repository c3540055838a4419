"""The share of in-batch columns known to be no negatives, as the log says it, equals plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.training.step import left_out_share
from nearfar.types import Targets

from reference import left_out


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

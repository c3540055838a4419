"""AdamW: torch's own on dense gradients, a loop over rows on sparse ones."""

import math

import pytest
import torch

from nearfar.training.config import OptimizerConfig
from nearfar.training.optimizer import AdamW, schedule


def test_on_dense_gradients_it_is_torchs_adamw():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(4, 3, dtype=torch.float64)) for _ in range(2))
    config = OptimizerConfig(weight_decay=0.1, clip=0.7)
    optimizer = AdamW({"w": ours}, config)
    peer = torch.optim.AdamW([theirs], lr=1.0, weight_decay=0.1)
    for step in range(7):
        gradient = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        torch.nn.utils.clip_grad_norm_([theirs], 0.7)
        for group in peer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        peer.step()
        norm = optimizer.step(0.1 / (step + 1))
        assert norm == pytest.approx(float(gradient.norm()))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_on_sparse_gradients_every_row_is_its_own_adamw():
    generator = torch.Generator().manual_seed(1)
    table = torch.nn.Parameter(torch.randn(6, 3, generator=generator, dtype=torch.float64))
    rows = [torch.nn.Parameter(row.detach().clone()[None]) for row in table]
    config = OptimizerConfig(weight_decay=0.1, clip=0)
    optimizer = AdamW({"w": table}, config)
    own = [AdamW({"w": row}, config) for row in rows]
    for touched in ([0, 2], [2, 5], [0, 2, 3], [5]):
        values = torch.randn(len(touched), 3, generator=generator, dtype=torch.float64)
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([touched]), values, table.shape, is_coalesced=True, check_invariants=False
        )
        optimizer.step(0.05)
        for row, value in zip(touched, values, strict=True):
            rows[row].grad = value[None].clone()
            own[row].step(0.05)
    torch.testing.assert_close(table.detach(), torch.cat([r.detach() for r in rows]))


def test_a_sparse_gradient_that_names_a_row_twice_counts_its_sum_and_moves_the_row_once():
    rows = torch.tensor([[3, 1, 3, 4, 1]])
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    moved = []
    for is_summed in (True, False):
        table = torch.nn.Parameter(torch.ones(6, 4))
        optimizer = AdamW({"table": table}, OptimizerConfig(clip=0.5))
        for step in (1, 2):
            gradient = torch.sparse_coo_tensor(rows, step * values, (6, 4), check_invariants=True)
            assert not gradient.is_coalesced()
            table.grad = gradient.coalesce() if is_summed else gradient
            norm = optimizer.step(0.1)
        moved.append((table.detach(), norm, optimizer.tensors()))
    (table, norm, state), (other, other_norm, other_state) = moved
    assert torch.equal(table, other)
    assert norm == other_norm
    assert all(torch.equal(state[name], other_state[name]) for name in state)
    assert state["count/table"].tolist() == [0, 2, 0, 2, 2, 0]


def test_untouched_rows_keep_every_bit():
    table = torch.nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(2)))
    before = table.detach().clone()
    optimizer = AdamW({"w": table}, OptimizerConfig(weight_decay=0.5))
    table.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 4]]), torch.ones(2, 3), table.shape, is_coalesced=True, check_invariants=False
    )
    optimizer.step(0.1)
    assert torch.equal(table.detach()[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    assert (table.detach()[[1, 4]] != before[[1, 4]]).all()


def test_the_schedule_rises_and_falls():
    linear = [schedule(s, 10, warmup=0.2, shape="linear") for s in range(10)]
    assert linear == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert schedule(5, 10, warmup=0, shape="cosine") == pytest.approx(0.5)
    assert schedule(9, 10, warmup=0, shape="constant") == 1
    assert schedule(0, 1, warmup=1, shape="linear") == 1
    assert all(math.isfinite(schedule(s, 3, warmup=1, shape="cosine")) for s in range(3))


def test_a_gradient_that_is_not_finite_changes_nothing_and_stays_to_be_looked_at():
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = AdamW({"w": weight}, OptimizerConfig())
    weight.grad = torch.tensor([[1.0, torch.inf], [0.0, 0.0], [0.0, 0.0]])
    assert math.isinf(optimizer.step(0.1))
    assert torch.equal(weight, torch.ones(3, 2))
    assert weight.grad is not None
    assert int(optimizer.count["w"].sum()) == 0

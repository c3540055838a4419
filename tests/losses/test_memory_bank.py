"""A memory of past rows: more columns, known by their ids, that take no gradient; the same after saving and loading."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from nearfar.errors import BadInput
from nearfar.losses import info_nce
from nearfar.losses.memory import Queue, cross_batch, update_momentum
from nearfar.types import Targets

import reference
from problems import Problem, count_multiplies, gradients, has_lonely_row, problems

SLABS = st.integers(1, 12)


def unit(count, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, d, generator=generator, dtype=torch.float64), dim=1)


def ids(count, seed, low=-1, high=8):
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))


def same(found, expected):
    for name, a, b in zip(("rows", "queries", "candidates", "temperature"), found, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(),
    pushes=st.lists(st.integers(0, 9), max_size=4),
    rows=SLABS,
    seed=st.integers(0, 2**31),
    owned=st.booleans(),
)
def test_info_nce_over_a_queue_equals_the_loops_over_batch_and_memory(problem: Problem, pushes, rows, seed, owned):
    b, n, d = len(problem.queries), len(problem.candidates), problem.queries.shape[1]
    targets = problem.targets
    if owned and targets.positive is None:
        owners = torch.cat([torch.arange(b), torch.full((n - b,), -1)])
        targets = Targets(None, targets.row_groups, targets.column_groups, targets.row_items, targets.column_items, owners)
    queue, past = Queue(7, d).double(), []
    for k, count in enumerate(pushes):
        new = unit(count, d, seed + k) if count else torch.empty(0, d, dtype=torch.float64)
        items, groups = ids(count, seed + k, high=2 * n), ids(count, seed - k, high=2 * n)
        queue.push(new, items=items, groups=groups)
        past += [(new[i], int(items[i]), int(groups[i])) for i in range(count)]
    past = past[-7:]
    assume(not has_lonely_row(problem) or len(past) > 0)

    def over_memory(q, c, _, *, temperature):
        extended = queue.extend(targets, n)
        return info_nce(q, c, extended, temperature=temperature, memory=queue.rows, rows_per_slab=rows)

    def loops(q, c, _, *, temperature):
        return reference.info_nce_with_memory(q, c, targets, past, temperature=temperature)

    expected = gradients(loops, problem)
    try:
        found = gradients(over_memory, problem)
    except BadInput as refused:
        assert "no negative" in str(refused)  # noqa: PT017
        assert float(expected[0].min()) < 1e-12
        return
    same(found, expected)


def test_a_stored_copy_of_the_positive_of_the_query_or_of_the_group_is_never_a_negative():
    queue = Queue(4, 2)
    queue.push(torch.ones(4, 2), items=torch.tensor([5, 6, -1, -1]), groups=torch.tensor([-1, -1, 7, -1]))
    targets = queue.extend(
        Targets(
            row_groups=torch.tensor([7, 1]),
            column_groups=torch.tensor([7, 1]),
            row_items=torch.tensor([6, 2]),
            column_items=torch.tensor([5, 3]),
        ),
        2,
    )
    valid = targets.slab(0, 2).valid
    assert valid is not None
    assert valid.tolist() == [[True, True, False, False, False, True], [True, True, True, True, True, True]]


def test_a_query_that_meets_only_its_own_key_and_the_queue_is_the_equation_of_moco():
    q, keys, past = unit(5, 4, 0), unit(5, 4, 1), unit(6, 4, 2)
    queue = Queue(6, 4).double()
    queue.push(past)
    found = info_nce(q, keys, queue.extend(Targets(column_owners=torch.arange(5)), 5), temperature=0.07, memory=queue.rows)
    expected = [
        -torch.log_softmax(torch.stack([q[i] @ keys[i], *(q[i] @ row for row in past)]) / 0.07, dim=0)[0] for i in range(5)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_an_empty_queue_changes_nothing():
    q, c, queue = unit(4, 3, 0), unit(6, 3, 1), Queue(5, 3)
    groups = Targets(row_groups=torch.arange(4), column_groups=torch.arange(6))
    for targets in (None, groups):
        found = info_nce(q, c, queue.extend(targets, 6), memory=queue.rows)
        torch.testing.assert_close(found, info_nce(q, c, targets), rtol=0, atol=0)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 6), pushes=st.lists(st.integers(0, 14), max_size=5))
def test_the_queue_holds_the_newest_rows_each_in_the_slot_it_was_given(size, pushes):
    queue, past, slots = Queue(size, 1), [], []
    for count in pushes:
        numbers = torch.arange(len(past), len(past) + count)
        slots = queue.push(numbers[:, None].float(), items=numbers, groups=numbers + 100)
        past += numbers.tolist()
        for number, slot in zip(numbers.tolist(), slots.tolist(), strict=True):
            assert slot == (number % size if number >= len(past) - size else -1)
            if slot >= 0:
                assert queue.rows[slot].item() == number
    assert len(queue) == min(size, len(past))
    kept = queue.rows[:, 0].long().tolist()
    assert sorted(kept) == past[-size:]
    assert queue.items[: len(queue)].tolist() == kept
    assert queue.groups[: len(queue)].tolist() == [number + 100 for number in kept]


def test_saved_and_loaded_midway_it_goes_on_bit_for_bit():
    def steps(queue, first, last):
        found = []
        for step in range(first, last):
            rows = unit(5, 3, step).float()
            found.append(
                info_nce(rows, rows.roll(1, 1), queue.extend(Targets(column_items=ids(5, step)), 5), memory=queue.rows)
            )
            queue.push(rows, items=ids(5, step), groups=ids(5, -step - 1))
        return found

    whole, before = Queue(8, 3), Queue(8, 3)
    expected = steps(whole, 0, 7)
    steps(before, 0, 3)
    after = Queue(8, 3)
    after.load_state_dict(load(save(before.state_dict())))
    for found, wanted in zip(steps(after, 3, 7), expected[3:], strict=True):
        assert torch.equal(found, wanted)
    assert all(torch.equal(a, b) for a, b in zip(after.buffers(), whole.buffers(), strict=True))


def test_a_push_between_forward_and_backward_changes_no_gradient():
    upstream, targets = (
        torch.rand(5, generator=torch.Generator().manual_seed(3)).double(),
        Targets(column_items=torch.arange(5)),
    )

    def gradient(push):
        queue = Queue(6, 4).double()
        queue.push(unit(6, 4, 1), items=torch.arange(6))
        q = unit(5, 4, 2).requires_grad_()
        loss = info_nce(q, unit(5, 4, 3), queue.extend(targets, 5), memory=queue.rows)
        if push:
            queue.push(unit(6, 4, 4), items=torch.arange(6, 12))
        (loss * upstream).sum().backward()  # unequal weights: the slabs run again
        return q.grad

    assert torch.equal(gradient(push=True), gradient(push=False))


def test_what_is_pushed_takes_its_graph_along_no_further():
    rows, queue = unit(3, 2, 0).float().requires_grad_(), Queue(4, 2)
    queue.push(rows)
    assert not queue.bank.requires_grad
    assert not queue.rows.requires_grad


def test_a_memory_costs_a_multiply_for_the_loss_and_one_for_the_queries_gradient_alone():
    q, c, queue = torch.randn(8, 4), torch.randn(8, 4), Queue(16, 4)
    queue.push(torch.randn(16, 4))
    assert count_multiplies(lambda: info_nce(q, c, memory=queue.rows, temperature=1.0)) == 1
    wants = q.clone().requires_grad_()
    assert count_multiplies(lambda: info_nce(wants, c, memory=queue.rows, temperature=1.0).mean().backward()) == 2
    labels = torch.arange(8) % 2
    memory = torch.arange(16) % 2
    assert count_multiplies(lambda: cross_batch(wants, labels, queue.rows, memory).mean().backward()) == 2


def test_the_gradient_of_both_sides_multiplies_by_the_candidates_columns_alone():
    q, c, queue = torch.randn(8, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True), Queue(16, 4)
    queue.push(torch.randn(16, 4))
    targets = queue.extend(Targets(torch.arange(8) % 6), 6)
    loss = info_nce(q, c, targets, memory=queue.rows, temperature=1.0)
    loss.sum().backward()
    assert c.grad is not None
    assert c.grad.shape == (6, 4)


@settings(max_examples=40, deadline=None)
@given(b=st.integers(2, 7), before=st.integers(0, 9), rows=SLABS, seed=st.integers(0, 2**31), temperature=st.floats(0.05, 1.0))
def test_cross_batch_equals_the_loops_of_xbm(b, before, rows, seed, temperature):
    queue = Queue(11, 3).double()
    if before:
        queue.push(unit(before, 3, seed), groups=ids(before, seed, 0, 3))
    labels = torch.arange(b) // 2
    labels[-1] = labels[-2]  # everyone has a positive
    batch = unit(b, 3, seed + 1)
    itself = queue.push(batch, groups=labels)
    memory, groups = queue.rows, queue.groups[: len(queue)]
    upstream = torch.rand(b, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def both(loss, **options):
        q, t = batch.clone().requires_grad_(), torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
        found = loss(q, t)
        return (found.detach(), *torch.autograd.grad((found * upstream).sum(), (q, t)))

    same(
        both(lambda q, t: cross_batch(q, labels, memory, groups, itself=itself, temperature=t, rows_per_slab=rows)),
        both(lambda q, t: reference.cross_batch(q, labels, memory, groups, itself.tolist(), temperature=t)),
    )


def test_cross_batch_equals_the_cross_batch_memory_of_pytorch_metric_learning():
    peer_losses = pytest.importorskip("pytorch_metric_learning.losses")
    peer = peer_losses.CrossBatchMemory(peer_losses.SupConLoss(temperature=0.1), 4, memory_size=12).double()
    queue = Queue(12, 4).double()
    for step in range(4):  # wraps round
        labels = torch.tensor([0, 0, 1, 1, 2, 2])
        ours, theirs = (unit(6, 4, step).requires_grad_() for _ in range(2))
        itself = queue.push(ours, groups=labels)
        # theirs makes rows unit itself
        loss = cross_batch(F.normalize(ours, dim=1), labels, queue.rows, queue.groups[: len(queue)], itself=itself).mean()
        expected = peer(theirs, labels)
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


def test_a_momentum_encoder_follows_at_the_rate_of_the_equation_and_copies_buffers():
    online = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    target = copy.deepcopy(online)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1.0)
    online(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = [p.detach().clone() for p in target.parameters()]
    for _ in range(3):
        update_momentum(online, target, momentum=0.9)
    for now, start, goal in zip(target.parameters(), before, online.parameters(), strict=True):
        torch.testing.assert_close(now, goal + 0.9**3 * (start - goal))
    assert all(torch.equal(a, b) for a, b in zip(target.buffers(), online.buffers(), strict=True))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Queue(0, 4), "size, dim: expected at least 1 each"),
        (lambda: Queue(4, 2).push(torch.ones(3, 3)), r"rows: expected floating point rows \[k, 2\], found \(3, 3\)"),
        (lambda: Queue(4, 2).push(torch.ones(3, 2).long()), "rows: expected floating point"),
        (lambda: Queue(4, 2).push(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])), "rows: row 1 holds NaN"),
        (lambda: Queue(4, 2).push(torch.ones(3, 2), items=torch.ones(2).long()), r"items: expected 3 int64 ids, found \(2,\)"),
        (lambda: Queue(4, 2).push(torch.ones(3, 2), groups=torch.ones(3)), "groups: expected 3 int64 ids"),
        (lambda: Queue(4, 2).extend(Targets(column_items=torch.arange(3)), 4), "targets.column_items: expected 4 ids"),
        (lambda: cross_batch(torch.eye(3), torch.arange(3), torch.eye(3), torch.tensor([0, 0, 1])), "row 2 has no positive"),
        (lambda: cross_batch(torch.eye(3), torch.ones(3), torch.eye(3), torch.arange(3)), "labels: expected 3 integers"),
        (
            lambda: cross_batch(torch.eye(2), torch.arange(2), torch.eye(2), torch.arange(2), itself=torch.tensor([0, 2])),
            "itself: found 2; the memory has 2 rows",
        ),
        (lambda: update_momentum(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)), "target: parameter 'weight' is missing"),
        (lambda: update_momentum(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), 1.5), "momentum: expected a number from 0 to 1"),
    ],
)
def test_bad_input_names_the_argument_and_the_row(call, says):
    with pytest.raises(BadInput, match=says):
        call()


def test_a_refused_push_leaves_the_queue_as_it_was():
    queue = Queue(4, 2)
    queue.push(torch.ones(2, 2))
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    with pytest.raises(BadInput):
        queue.push(torch.full((2, 2), torch.inf))
    assert all(torch.equal(value, before[name]) for name, value in queue.state_dict().items())

"""Where losses once went wrong without a word: items seen from the other side, learned knobs, first steps of a queue, lengths bfloat16 cannot hold."""

from functools import partial
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from nearfar import losses
from nearfar.errors import BadInput
from nearfar.losses.info_nce import Direction
from nearfar.types import Targets


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rows_have_items", [False, True])
def test_both_directions_of_info_nce_leave_out_what_clip_leaves_out_by_items(seed, rows_have_items):
    generator = torch.Generator().manual_seed(seed)
    q, c = unit(7, 5, seed=seed), unit(7, 5, seed=seed + 100)
    column_items, row_items = (torch.randint(0, 9, (7,), generator=generator) for _ in range(2))
    targets = Targets(column_items=column_items, row_items=row_items if rows_have_items else None)
    found = losses.symmetric(losses.info_nce)(q, c, targets)
    torch.testing.assert_close(found, losses.clip(q, c, targets, temperature=0.05))


def test_items_of_rows_beside_groups_cannot_be_turned_round_and_are_refused():
    ids = torch.arange(4)
    targets = Targets(row_groups=ids, column_groups=ids, row_items=ids, column_items=ids + 4)
    with pytest.raises(BadInput, match="row_items"):
        losses.symmetric(losses.info_nce)(unit(4, 3), unit(4, 3, seed=1), targets)


@pytest.mark.parametrize("half", ["row_groups", "column_groups", "row_items"])
def test_half_of_a_pair_of_ids_is_refused_not_passed_over(half):
    with pytest.raises(BadInput, match=half):
        losses.info_nce(unit(4, 3), unit(4, 3, seed=1), Targets(**{half: torch.arange(4)}))


@pytest.mark.parametrize("name", ["arc_face", "cos_face", "circle", "debiased"])
def test_a_temperature_that_learns_is_refused_where_the_loss_has_it_fixed(name):
    knob = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    labels, z = torch.tensor([0, 0, 1, 1]), unit(4, 5)
    calls = {
        "arc_face": lambda t: losses.arc_face(z, unit(2, 5, seed=1), labels, temperature=t),
        "cos_face": lambda t: losses.cos_face(z, unit(2, 5, seed=1), labels, temperature=t),
        "circle": lambda t: losses.circle(z, labels, temperature=t),
        "debiased": lambda t: losses.debiased(z, unit(4, 5, seed=1), temperature=t),
    }
    with pytest.raises(BadInput, match="temperature"):
        calls[name](knob)
    torch.testing.assert_close(calls[name](knob.detach()), calls[name](0.3))


@pytest.mark.parametrize("loss", [losses.batch_triplet, losses.lifted_structure, losses.sup_con])
def test_an_empty_queue_is_no_memory(loss):
    queue, z, labels = losses.Queue(16, 5), unit(6, 5), torch.tensor([0, 0, 1, 1, 2, 2])
    found = loss(z, labels, memory=queue.rows.double(), memory_labels=torch.zeros(0, dtype=torch.int64))
    torch.testing.assert_close(found, loss(z, labels))


@pytest.mark.parametrize("length", [41.0, 60.0, 100.0, 1000.0])
@pytest.mark.parametrize("loss", ["info_nce", "clip", "nt_xent", "joint"])
def test_long_rows_in_bfloat16_give_the_float32_loss_and_finite_gradients(length, loss):
    both = ("query_to_candidate", "query_to_query")
    calls = {
        "info_nce": lambda a, b: losses.info_nce(a, b, temperature=0.05, precision="bfloat16"),
        "clip": lambda a, b: losses.clip(a, b, temperature=0.05, precision="bfloat16"),
        "nt_xent": lambda a, b: losses.nt_xent(a, b, temperature=0.05, precision="bfloat16"),
        "joint": lambda a, b: losses.info_nce(a, b, temperature=0.05, directions=both, partition="joint", precision="bfloat16"),
    }
    exact = {
        "info_nce": lambda a, b: losses.info_nce(a, b, temperature=0.05),
        "clip": lambda a, b: losses.clip(a, b, temperature=0.05),
        "nt_xent": lambda a, b: losses.nt_xent(a, b, temperature=0.05),
        "joint": lambda a, b: losses.info_nce(a, b, temperature=0.05, directions=both, partition="joint"),
    }
    a, b = ((length * unit(8, 6, seed=s)).float().requires_grad_() for s in (0, 1))
    found = calls[loss](a, b)
    found.mean().backward()
    torch.testing.assert_close(found, exact[loss](a, b))
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())


@pytest.mark.parametrize("length", [1.0, 3.0, 10.0, 30.0])
def test_euclidean_triplets_under_autocast_are_those_of_float32(length):
    z, labels = (length * unit(8, 6)).float(), torch.arange(8) // 2
    exact = losses.batch_triplet(z, labels, margin=1.0, mining="hardest")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.batch_triplet(z, labels, margin=1.0, mining="hardest")
    torch.testing.assert_close(found, exact, rtol=0.0, atol=0.03)


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (losses.clip, ("a", "b")),
        (losses.siglip, ("a", "b")),
        (losses.info_nce, ("queries", "candidates")),
        (losses.triplet, ("anchor", "positive", "negative")),
        (lambda q, c, g, h: losses.gist(q, c, g, h), ("queries", "candidates", "guide_queries", "guide_candidates")),
        (lambda e, p: losses.softmax_classes(e, p, torch.arange(4)), ("embeddings", "prototypes")),
        (lambda q, p, n: losses.margin_mse(q, p, n, torch.zeros(4)), ("queries", "positives", "negatives")),
    ],
)
def test_a_refusal_names_the_argument_as_the_loss_that_was_called_does(loss, names):
    for place, name in enumerate(names):
        rows = [unit(4, 5, seed=seed) for seed in range(len(names))]
        rows[place][2, 1] = torch.nan
        with pytest.raises(BadInput, match=rf"^{name}: row 2 holds NaN"):
            loss(*rows)


def test_of_two_views_a_refusal_says_that_their_rows_are_counted_together():
    view = unit(4, 5)
    with pytest.raises(BadInput, match=r"^view1, then view2: row 5 holds NaN"):
        losses.nt_xent(view, torch.where(torch.arange(4)[:, None] == 1, torch.nan, view))


@pytest.mark.parametrize("made", [lambda rows: rows.tolist(), lambda rows: rows.numpy()])
def test_what_is_no_tensor_is_refused_by_its_name(made):
    rows, labels = unit(4, 5), torch.tensor([0, 0, 1, 1])
    calls = {
        "candidates": lambda wrong: losses.info_nce(rows, wrong),
        "a": lambda wrong: losses.clip(wrong, rows),
        "embeddings": lambda wrong: losses.sup_con(wrong, labels),
        "anchor": lambda wrong: losses.triplet(wrong, rows, rows),
        "view1": lambda wrong: losses.vicreg(wrong, rows),
        "teacher_rows": lambda wrong: losses.embedding_mse(rows, wrong),
    }
    for name, call in calls.items():
        with pytest.raises(BadInput, match=rf"^{name}: expected a tensor, found (list|ndarray)\. Convert it"):
            call(made(rows))
    with pytest.raises(BadInput, match=r"^temperature: expected a number or a tensor, found list"):
        losses.info_nce(rows, rows, temperature=[0.05])  # pyright: ignore[reportArgumentType]


def test_a_call_that_fits_no_signature_stays_pythons_own_error():
    with pytest.raises(TypeError, match="temprature"):
        losses.info_nce(unit(4, 5), unit(4, 5), temprature=0.1)  # pyright: ignore[reportCallIssue]


def confident(rows: int, dims: int, away: float) -> tuple[Tensor, Tensor]:
    """Unit pairs that lie as near to each other as no other rows do."""
    a = F.normalize(torch.randn(rows, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    b = torch.randn(rows, dims, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return a, F.normalize(a + away * F.normalize(b, dim=1), dim=1)


@pytest.mark.parametrize("away", [0.02, 0.3])
@pytest.mark.parametrize("temperature", [0.05, 0.02, 0.01])
@pytest.mark.parametrize(
    "loss",
    [
        losses.clip,
        partial(losses.info_nce, directions=get_args(Direction), partition="joint"),
        losses.info_nce,
        lambda a, b, temperature: losses.gist(a, b, a.detach(), b.detach(), temperature=temperature),
    ],
)
def test_tiny_losses_of_confident_pairs_are_exact_in_float32(loss, temperature: float, away: float):
    """As a difference of two logarithms near 100 they were noise, some below zero, and so was the temperature's gradient."""
    found = []
    for dtype in (torch.float64, torch.float32):
        a, b = (x.to(dtype).requires_grad_() for x in confident(256, 64, away))
        knob = torch.tensor(temperature, dtype=dtype, requires_grad=True)
        rows = loss(a, b, temperature=knob)
        assert bool((rows >= 0).all())
        found.append((rows.detach(), *torch.autograd.grad(rows.sum(), (a, b, knob))))
    for exact, ours in zip(*found, strict=True):
        assert float((ours.double() - exact).norm()) <= 1e-4 * float(exact.norm())


def test_gist_refuses_what_it_does_not_know():
    a, b = confident(8, 4, 0.3)
    with pytest.raises(TypeError, match="temprature"):
        losses.gist(a, b, a, b, temprature=1.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="memory"):
        losses.gist(a, b, a, b, memory=a)  # pyright: ignore[reportCallIssue]


def test_forward_mode_is_refused_and_not_zero():
    a, b = confident(8, 4, 0.3)
    for loss in (losses.info_nce, partial(losses.matryoshka_info_nce, dims=[4, 2])):
        with pytest.raises(BadInput, match="forward mode"):
            torch.func.jvp(lambda x, loss=loss: loss(x, b), (a,), (b,))
        with forward_ad.dual_level(), pytest.raises(BadInput, match="forward mode"):
            loss(forward_ad.make_dual(a, b), b)


def test_slips_are_answered_in_the_words_of_the_call():
    a, b = confident(8, 4, 0.3)
    with pytest.raises(BadInput, match=r"Targets\(positive=targets\)"):
        losses.info_nce(a, b, torch.arange(8))  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match=r"Targets\(positive=targets\)"):
        losses.clip(a, b, torch.arange(8))  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match=r"Call it: temperature\(\)"):
        losses.info_nce(a, b, temperature=losses.Temperature())  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match=r"\('query_to_candidate',\)"):
        losses.info_nce(a, b, directions="query_to_candidate")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.05, 0.002, 0.0002])
def test_a_column_that_no_other_row_is_contrasted_with_pulls_nothing(temperature: float, dtype: torch.dtype):
    a, b = (unit(4, 6, seed=seed).to(dtype).requires_grad_() for seed in (0, 1))
    rows, columns = torch.tensor([0, 7, 7, 7]), torch.tensor([7, 1, 2, 3])
    targets = Targets(row_groups=rows, column_groups=columns)
    knob = torch.tensor(temperature, dtype=dtype, requires_grad=True)
    found = losses.clip(a, b, targets, temperature=knob)
    kept = ~((rows[:, None] == columns) & ~torch.eye(4, dtype=torch.bool))
    logits = (a @ b.T / knob).masked_fill(~kept, -torch.inf)
    wanted = -(logits.log_softmax(dim=1).diagonal() + logits.log_softmax(dim=0).diagonal()) / 2
    near = 1e-4 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(found, wanted, rtol=near, atol=near)
    for ours, exact in zip(
        torch.autograd.grad(found.sum(), (a, b, knob)), torch.autograd.grad(wanted.sum(), (a, b, knob)), strict=True
    ):
        torch.testing.assert_close(ours, exact, rtol=near, atol=near)

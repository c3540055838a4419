"""Laws that every loss over similarities obeys, whatever its formula."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nearfar import losses
from nearfar.errors import BadInput

ALL = ("query_to_candidate", "candidate_to_query", "query_to_query", "candidate_to_candidate")
B, D = 10, 6
LABELS = torch.arange(B) % 4
SCORES = torch.linspace(0, 1, B, dtype=torch.float64)

PAIRED = {
    "info_nce": losses.info_nce,
    "joint": lambda q, c, **o: losses.info_nce(q, c, directions=ALL, partition="joint", **o),
    "clip": losses.clip,
    "siglip": lambda q, c, **o: losses.siglip(q, c, bias=-2.0, **o),
    "decoupled": losses.decoupled,
    "debiased": losses.debiased,
    "smoothed": losses.smoothed,
    "hardness_weighted": losses.hardness_weighted,
    "positive_aware": losses.positive_aware,
    "gist": lambda q, c, **o: losses.gist(q, c, q.detach(), c.detach(), margin=-0.5, **o),
    "matryoshka": lambda q, c, **o: losses.matryoshka_info_nce(q, c, dims=(D,), **o),
    "hardest_negative": lambda q, c, **o: losses.hardest_negative(q, c, **{k: v for k, v in o.items() if k != "temperature"}),
}
LABELLED = {
    "sup_con": losses.sup_con,
    "sup_con in": lambda z, labels: losses.sup_con(z, labels, form="in"),
    "hardest": losses.batch_triplet,
    "semi_hard": lambda z, labels: losses.batch_triplet(z, labels, mining="semi_hard"),
    "all": lambda z, labels: losses.batch_triplet(z, labels, mining="all"),
    "circle": losses.circle,
    "multi_similarity": losses.multi_similarity,
    "lifted_structure": losses.lifted_structure,
}


def pair(seed=0, dtype=torch.float64):
    q, c = (torch.randn(B, D, generator=torch.Generator().manual_seed(seed + s), dtype=dtype) for s in (0, 1))
    q = F.normalize(q, dim=1)
    return q, F.normalize(q + F.normalize(c, dim=1), dim=1)


def rotation():
    return torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)).Q


@pytest.mark.parametrize("name", PAIRED)
def test_permuting_the_pairs_permutes_the_losses_and_rotating_the_space_changes_nothing(name):
    q, c = pair()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    found = PAIRED[name](q, c, temperature=0.2)
    torch.testing.assert_close(PAIRED[name](q[order], c[order], temperature=0.2), found[order])
    if name != "matryoshka":
        torch.testing.assert_close(PAIRED[name](q @ rotation(), c @ rotation(), temperature=0.2), found)


@pytest.mark.parametrize("name", LABELLED)
def test_permuting_labelled_rows_permutes_the_losses_and_rotating_the_space_changes_nothing(name):
    z, _ = pair()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    found = LABELLED[name](z, LABELS)
    torch.testing.assert_close(LABELLED[name](z[order], LABELS[order]), found[order])
    torch.testing.assert_close(LABELLED[name](z @ rotation(), LABELS), found)


def similarities(of_positive: float, of_negatives: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """One query (first of b rows) that has exactly these similarities with the candidates; the other rows stay."""
    count = 1 + len(of_negatives)
    q = torch.eye(count + 1, dtype=torch.float64)[:1]
    wanted = torch.tensor([of_positive, *of_negatives], dtype=torch.float64)
    c = torch.zeros(count, count + 1, dtype=torch.float64)
    c[:, 0] = wanted
    c[torch.arange(count), torch.arange(1, count + 1)] = (1 - wanted.square()).sqrt()
    return q, c


ROWWISE = ("info_nce", "siglip", "decoupled", "debiased", "hardness_weighted", "hardest_negative")


@pytest.mark.parametrize("name", ROWWISE)
def test_a_nearer_positive_never_raises_the_loss_and_a_nearer_negative_never_lowers_it(name):
    def loss(positive: float, negative: float) -> float:
        return float(PAIRED[name](*similarities(positive, [negative, 0.1, -0.2]), temperature=0.3)[0])

    grid = [-0.8, -0.3, 0.0, 0.4, 0.9]
    for fixed in grid:
        nearer = [loss(positive, fixed) for positive in grid]
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(nearer))
        harder = [loss(fixed, negative) for negative in grid]
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(harder))


def test_as_the_temperature_goes_to_zero_info_nce_times_it_is_the_hardest_negatives_margin():
    q, c = pair()
    similarity = q @ c.T
    hardest = similarity.masked_fill(torch.eye(B, dtype=torch.bool), -torch.inf).amax(dim=1)
    limit = (hardest - similarity.diagonal()).clamp(min=0)
    errors = [float((t * losses.info_nce(q, c, temperature=t) - limit).abs().max()) for t in (1e-1, 1e-2, 1e-3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-3 * math.log(B)


def test_of_collapsed_rows_each_loss_is_the_constant_it_is_known_by():
    rows = torch.ones(B, D, dtype=torch.float64) / math.sqrt(D)
    n = math.log(B)
    for name, constant in (
        ("info_nce", n),
        ("clip", n),
        ("smoothed", n),
        ("decoupled", math.log(B - 1)),
        ("positive_aware", 0.0),
    ):
        # positive_aware leaves out all that is as near as the positive: said in its docstring
        torch.testing.assert_close(PAIRED[name](rows, rows, temperature=0.1), torch.full((B,), constant, dtype=torch.float64))
    joint = math.log(2 * B + 2 * (B - 1))
    torch.testing.assert_close(PAIRED["joint"](rows, rows, temperature=0.1), torch.full((B,), joint, dtype=torch.float64))
    for mining in ("all", "hardest", "semi_hard"):
        found = losses.batch_triplet(rows, LABELS, margin=0.7, mining=mining)
        torch.testing.assert_close(found, torch.full((B,), 0.7, dtype=torch.float64))


def gradients(loss, q, c, scale=1.0, weights=None):
    leaves = q.clone().requires_grad_(), c.clone().requires_grad_()
    rows = loss(*leaves, temperature=0.2)
    ((rows.mean() if weights is None else (rows * weights).sum()) * scale).backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("weights", [None, torch.linspace(0.1, 1, B, dtype=torch.float64)], ids=["mean", "weighted"])
@pytest.mark.parametrize("name", PAIRED)
def test_a_loss_scale_scales_the_gradients_and_two_backward_calls_add_them(name, weights):
    q, c = pair()
    once, scaled = gradients(PAIRED[name], q, c, weights=weights), gradients(PAIRED[name], q, c, 65536.0, weights)
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(a * 65536.0, b, rtol=1e-12, atol=1e-9)
    leaves = q.clone().requires_grad_(), c.clone().requires_grad_()
    for _ in range(2):
        rows = PAIRED[name](*leaves, temperature=0.2)
        (rows.mean() if weights is None else (rows * weights).sum()).backward()
    for leaf, a in zip(leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * a)


@pytest.mark.parametrize("name", PAIRED)
def test_a_second_backward_of_one_graph_gives_the_same_gradients(name):
    q, c = (x.requires_grad_() for x in pair())
    value = PAIRED[name](q, c, temperature=0.2).mean()
    first = torch.autograd.grad(value, (q, c), retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(value, (q, c)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", PAIRED)
def test_a_second_derivative_is_refused(name):
    q, c = (x.requires_grad_() for x in pair())
    with pytest.raises(BadInput, match="no second derivative"):
        torch.autograd.grad(PAIRED[name](q, c, temperature=0.2).sum(), q, create_graph=True)


@pytest.mark.parametrize("name", LABELLED)
def test_a_second_derivative_of_labelled_losses_is_refused(name):
    z = pair()[0].requires_grad_()
    with pytest.raises(BadInput, match="no second derivative"):
        torch.autograd.grad(LABELLED[name](z, LABELS).sum(), z, create_graph=True)


def test_distributed_accumulation_without_sync_changes_nothing(tmp_path):
    """Two micro-batches under `no_sync` and one with it, in a world of one, are the plain sum."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        plain = nn.Linear(D, D, bias=False).double()
        wrapped = nn.parallel.DistributedDataParallel(nn.Linear(D, D, bias=False).double())
        wrapped.module.load_state_dict(plain.state_dict())
        batches = [pair(seed) for seed in (0, 5, 11)]

        def loss(model, q, c):
            return losses.clip(F.normalize(model(q), dim=1), c, temperature=0.1).mean()

        for q, c in batches:
            loss(plain, q, c).backward()
        with wrapped.no_sync():
            for q, c in batches[:2]:
                loss(wrapped, q, c).backward()
        loss(wrapped, *batches[2]).backward()
        torch.testing.assert_close(wrapped.module.weight.grad, plain.weight.grad)
    finally:
        dist.destroy_process_group()

"""Multiplies by oneDNN are those of torch, in value and in every gradient of a loss, and where they are not there nothing changes."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nearfar import losses
from nearfar.similarity import multiplies, slabs
from nearfar.similarity.multiplies import LARGEST_RESULT, linear
from nearfar.similarity.products import NEAR, Products
from nearfar.similarity.slabs import CACHED_BYTES, FEWEST_ROWS, SLAB_BYTES, slab_rows


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def without_onednn(monkeypatch):
    for module in (multiplies, slabs):
        monkeypatch.setattr(module, "has_onednn", lambda: False)


@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float64, 1e-12), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize(("rows", "width", "out"), [(1, 1, 1), (0, 3, 2), (7, 5, 3), (33, 64, 17), (129, 384, 130)])
def test_linear_is_rows_times_the_weights_and_the_offsets(dtype, near, rows, width, out):
    x, weight, bias = draw(rows, width, dtype=dtype), draw(out, width, seed=1, dtype=dtype), draw(out, seed=2, dtype=dtype)
    wanted = x.double() @ weight.double().T
    for offset in (None, bias):
        found = linear(x, weight, offset)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(), wanted if offset is None else wanted + offset.double(), rtol=near, atol=near * width**0.5
        )
    turned = weight.T.contiguous().T  # not row after row, as candidates are in a gradient
    torch.testing.assert_close(linear(x, turned), linear(x, weight), rtol=near, atol=near)


@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.02, 0.001])  # the last two lie too far apart to go without a shift
def test_losses_are_the_same_by_onednn_and_by_torch(temperature, request):
    def run():
        q, c = (torch.nn.functional.normalize(draw(130, 24, seed=seed)).requires_grad_() for seed in (1, 2))
        found = []
        for loss in (losses.info_nce, losses.clip):
            value = loss(q, c, temperature=temperature)
            found += [value.detach(), *torch.autograd.grad(value.mean(), (q, c))]
        return found

    here = run()
    request.getfixturevalue("without_onednn")
    for found, wanted in zip(here, run(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-5 / temperature)


@pytest.mark.parametrize("length", [1.0, (NEAR / 2) ** 0.5, 30.0])
def test_a_shift_or_none_gives_the_loss_of_float64(length):
    q, c = (torch.nn.functional.normalize(draw(40, 16, seed=seed)) * length for seed in (3, 4))
    exact = torch.nn.functional.cross_entropy(q.double() @ c.double().T, torch.arange(40), reduction="none")
    torch.testing.assert_close(losses.info_nce(q, c, temperature=1.0).double(), exact, rtol=1e-4, atol=1e-5 * length**2)


def test_logits_within_reach_need_no_shift_and_others_get_theirs():
    products = Products(draw(6, 4), draw(9, 4, seed=1), torch.float32)
    near = draw(6, seed=2)
    assert not products.shift_near(near, NEAR).any()
    assert torch.equal(products.shift_near(near, NEAR * 1.01), near)
    narrow = Products(draw(6, 4), draw(9, 4, seed=1), torch.bfloat16)
    assert torch.equal(narrow.shift_near(near, 1.0), near.bfloat16().float())  # a rounded logit wants to be small


def test_slabs_stay_in_the_cache_where_that_leaves_enough_rows(monkeypatch):
    monkeypatch.setattr(slabs, "has_onednn", lambda: True)
    assert slab_rows(16_384) == CACHED_BYTES // (16_384 * 4)
    assert slab_rows(50_000) == LARGEST_RESULT // (50_000 * 4) >= FEWEST_ROWS
    assert slab_rows(65_536) == SLAB_BYTES // (65_536 * 4)
    assert slab_rows(100) == 1024
    assert slab_rows(16_384, element_size=2) == 1024
    monkeypatch.setattr(slabs, "has_onednn", lambda: False)
    assert slab_rows(16_384) == SLAB_BYTES // (16_384 * 4)


@pytest.mark.parametrize("loss", [losses.info_nce, partial(losses.matryoshka_info_nce, dims=[32, 16, 8])])
def test_some_columns_of_wider_rows_are_multiplied_in_one_piece(loss: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch):
    """Strided, oneDNN takes hundreds of times as long."""
    given = []

    def spy(rows: Tensor, weight: Tensor, bias: Tensor | None, then: str) -> Tensor:
        assert then == "none"
        given.extend((rows, weight))
        return F.linear(rows, weight, bias)

    monkeypatch.setattr(multiplies, "has_onednn", lambda: True)
    monkeypatch.setattr(multiplies, "_linear", spy)
    wide = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    query, candidate = wide[:, :32].requires_grad_(), wide[:, 32:].requires_grad_()
    loss(query, candidate).mean().backward()
    assert given
    assert all(m.is_contiguous() or m.T.is_contiguous() for m in given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_it", [True, False])
def test_gelu_on_the_way_out_is_gelu_of_the_linear_layer(monkeypatch, dtype, has_it):
    if not has_it:
        monkeypatch.setattr(multiplies, "has_onednn", lambda: False)
    rows, weight, bias = (torch.randn(*size, dtype=dtype) for size in ((7, 32), (48, 32), (48,)))
    found = multiplies.linear(rows, weight, bias, "gelu")
    expected = F.gelu(F.linear(rows.double(), weight.double(), bias.double()))
    assert found.dtype == dtype
    assert torch.allclose(
        found.double(), expected, **({"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05})
    )

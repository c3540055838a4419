"""Nested dimensions in shared slabs equal one loss each, in value and in every gradient, at the multiplies of one."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nearfar import losses
from nearfar.errors import BadInput

from problems import Problem, count_multiplies, gradients, has_lonely_row, problems


@settings(max_examples=60, deadline=None)
@given(problem=problems(), rows=st.integers(1, 12), data=st.data())
def test_shared_slabs_equal_one_loss_per_dimension(problem: Problem, rows, data):
    assume(not has_lonely_row(problem))
    d = problem.queries.shape[1]
    dims = data.draw(st.lists(st.integers(1, d), min_size=1, max_size=4, unique=True))
    factors = data.draw(st.lists(st.floats(0.1, 2), min_size=len(dims), max_size=len(dims)))
    # the loops of one loss are proven elsewhere; rows of any length, since each prefix is made unit
    longer = problem._replace(queries=problem.queries * 1.7, candidates=problem.candidates * 0.6)

    def one_each(q, c, targets, *, temperature):
        found = losses.matryoshka(lambda q, c, t: losses.info_nce(q, c, t, temperature=temperature), dims, factors)(
            q, c, targets
        )
        return found if problem.weights is None else found * problem.weights

    options = {"dims": dims, "factors": factors, "rows_per_slab": rows, "weights": problem.weights}
    found, expected = gradients(losses.matryoshka_info_nce, longer, **options), gradients(one_each, longer)
    for name, a, b in zip(("rows", "queries", "candidates", "temperature"), found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def test_all_dimensions_together_multiply_as_many_numbers_as_the_largest_alone():
    q, c = (torch.randn(8, 12, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    # three blocks of the slab, each with its three products; their widths add up to the largest dimension
    assert count_multiplies(lambda: losses.matryoshka_info_nce(q, c, dims=(12, 6, 3)).mean().backward()) == 9
    assert count_multiplies(lambda: losses.matryoshka_info_nce(q, c, dims=(12,)).mean().backward()) == 3


def test_in_bfloat16_it_is_near_float32():
    q, c = (torch.randn(64, 32, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    found = [losses.matryoshka_info_nce(q, c, dims=(8, 32), temperature=0.1, precision=p) for p in ("bfloat16", "float32")]
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)
    a, b = (torch.cat(torch.autograd.grad(x.mean(), (q, c))) for x in found)
    assert float((a - b).norm() / b.norm()) < 0.02


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: losses.matryoshka_info_nce(torch.eye(4), torch.eye(4), dims=(2,)), "first 2 numbers of row 2 are all zero"),
        (lambda: losses.matryoshka_info_nce(torch.ones(4, 4), torch.ones(4, 4), dims=(5,)), "5 asked for"),
        (lambda: losses.matryoshka_info_nce(torch.ones(4, 4), torch.ones(4, 4), dims=(2, 2)), "each dimension once"),
        (lambda: losses.matryoshka_info_nce(torch.ones(1, 4), torch.ones(1, 4), dims=(2,)), "row 0 has no negative"),
    ],
)
def test_what_cannot_be_is_refused(call, says):
    with pytest.raises(BadInput, match=says):
        call()

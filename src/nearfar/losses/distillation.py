"""A student learns a teacher's scores or rows, not labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.distances import refuse_bad_rows


def margin_mse(
    queries: Float[Tensor, "b d"],
    positives: Float[Tensor, "b d"],
    negatives: Float[Tensor, "b d"] | Float[Tensor, "b k d"],
    teacher_margin: Float[Tensor, " b"] | Float[Tensor, "b k"],
) -> Float[Tensor, " b"]:
    """Squared difference of (q . p - q . n) from the teacher's margin, the mean over k negatives (Hofstätter 2020, arXiv 2010.02666)."""
    rows = negatives[:, None] if negatives.ndim == 2 else negatives
    wanted = teacher_margin[:, None] if teacher_margin.ndim == 1 else teacher_margin
    refuse_bad_rows(queries=queries, positives=positives, negatives=rows.flatten(0, 1))
    if rows.shape[0] != len(queries) or positives.shape != queries.shape or wanted.shape != rows.shape[:2]:
        raise BadInput(
            f"teacher_margin: expected one number per query and negative {tuple(rows.shape[:2])} of {len(queries)} queries, "
            f"found {tuple(teacher_margin.shape)}."
        )
    margin = (queries * positives).sum(dim=1, keepdim=True) - torch.einsum("bd,bkd->bk", queries, rows)
    return (margin - wanted.detach()).square().mean(dim=1)


def score_kl(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "b k d"],
    teacher_scores: Float[Tensor, "b k"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " b"]:
    """KL(teacher || student) of the softmax over each query's k candidates, times temperature squared (Hinton 2015, section 2.1)."""
    student = (_student(queries, candidates, teacher_scores) / temperature).log_softmax(dim=1)
    teacher = (teacher_scores.detach() / temperature).log_softmax(dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1) * temperature**2


def list_mle(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "b k d"],
    teacher_scores: Float[Tensor, "b k"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, " b"]:
    """Minus the log-probability of the teacher's order under the student's scores (Xia 2008, ListMLE; the Plackett-Luce model).

    The first is drawn by softmax among all k candidates, the second among the rest, and so on. Equal teacher scores keep their order.
    """
    student = _student(queries, candidates, teacher_scores) / temperature
    ordered = student.gather(1, teacher_scores.argsort(dim=1, descending=True, stable=True))
    return (ordered.flip(1).logcumsumexp(dim=1).flip(1) - ordered).sum(dim=1)


def embedding_mse(rows: Float[Tensor, "b d"], teacher_rows: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Mean squared difference over the dimensions (Reimers and Gurevych 2020, arXiv 2004.09813)."""
    refuse_bad_rows(rows=rows, teacher_rows=teacher_rows)
    if rows.shape != teacher_rows.shape:
        raise BadInput(f"teacher_rows: expected {tuple(rows.shape)}, found {tuple(teacher_rows.shape)}.")
    return (rows - teacher_rows.detach()).square().mean(dim=1)


def _student(queries: Tensor, candidates: Tensor, teacher_scores: Tensor) -> Tensor:
    """Dot products [b, k] of each query with its own candidates."""
    if (
        candidates.ndim != 3
        or candidates.shape[1] < 2
        or len(candidates) != len(queries)
        or teacher_scores.shape != candidates.shape[:2]
    ):
        raise BadInput(
            f"teacher_scores: expected [queries, candidates] with 2 or more candidates, found {tuple(teacher_scores.shape)} "
            f"beside candidates {tuple(candidates.shape)} and {len(queries)} queries."
        )
    refuse_bad_rows(queries=queries, candidates=candidates.flatten(0, 1))
    return torch.einsum("bd,bkd->bk", queries, candidates)

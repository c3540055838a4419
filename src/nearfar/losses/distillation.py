"""A student learns a teacher's scores or rows, not labels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import above_zero, finite_numbers, spoken
from nearfar.similarity.distances import Distance, pair_distances, refuse_bad_rows


@spoken()
def margin_mse(
    queries: Float[Tensor, "b d"],
    positives: Float[Tensor, "b d"],
    negatives: Float[Tensor, "b d"] | Float[Tensor, "b k d"],
    teacher_margin: Float[Tensor, " b"] | Float[Tensor, "b k"],
) -> Float[Tensor, " b"]:
    """Squared difference of (q . p - q . n) from the teacher's margin, the mean over k negatives (Hofstätter 2020, arXiv 2010.02666).

    Not scaled, so in float32 it is finite for rows shorter than about 1e9: dot products of longer ones square to infinity.
    """
    rows = negatives[:, None] if negatives.ndim == 2 else negatives
    if rows.ndim != 3 or 0 in rows.shape:
        raise BadInput(f"negatives: expected rows [b, d] or [b, k, d], found shape {tuple(negatives.shape)}.")
    refuse_bad_rows(queries=queries, positives=positives)
    for k in range(rows.shape[1]):
        refuse_bad_rows(queries=queries, negatives=rows[:, k])
    if len(rows) != len(queries) or positives.shape != queries.shape:
        raise BadInput(
            f"positives, negatives: expected rows for {len(queries)} queries, found {len(positives)} and {len(rows)}. "
            "Row i of each belongs to query i."
        )
    wanted = teacher_margin[:, None] if teacher_margin.ndim == 1 else teacher_margin
    finite_numbers("teacher_margin", wanted, tuple(rows.shape[:2]), "query and negative")
    margin = (queries * positives).sum(dim=1, keepdim=True) - torch.einsum("bd,bkd->bk", queries, rows)
    return (margin - wanted.detach()).square().mean(dim=1)


@spoken()
def score_kl(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "b k d"],
    teacher_scores: Float[Tensor, "b k"],
    *,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
) -> Float[Tensor, " b"]:
    """KL(teacher || student) of the softmax over each query's k candidates, times temperature squared (Hinton 2015, arXiv 1503.02531, section 2).

    The teacher's scores are divided by `teacher_temperature`, by default the student's. But for the teacher's entropy, which has no gradient, this
    is ListNet's cross-entropy of the first place (Cao 2007) too.
    """
    knob = above_zero("temperature", temperature)
    other = knob if teacher_temperature is None else above_zero("teacher_temperature", teacher_temperature)
    student = (_student(queries, candidates, teacher_scores) / knob).log_softmax(dim=1)
    teacher = (teacher_scores.detach() / other).log_softmax(dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1) * knob**2


@spoken()
def list_mle(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "b k d"],
    teacher_scores: Float[Tensor, "b k"],
    *,
    temperature: float | Tensor = 1.0,
) -> Float[Tensor, " b"]:
    """Minus the log-probability of the teacher's order under the student's scores (Xia 2008, ListMLE; the Plackett-Luce model).

    The first is drawn by softmax among all k candidates, the second among the rest, and so on. Equal teacher scores keep their order.
    """
    student = _student(queries, candidates, teacher_scores) / above_zero("temperature", temperature)
    ordered = student.gather(1, teacher_scores.argsort(dim=1, descending=True, stable=True))
    return (ordered.flip(1).logcumsumexp(dim=1).flip(1) - ordered).sum(dim=1)


@spoken()
def embedding_mse(rows: Float[Tensor, "b d"], teacher_rows: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Mean squared difference over the dimensions (Reimers and Gurevych 2020, arXiv 2004.09813)."""
    return embedding_distance(rows, teacher_rows, distance="squared_euclidean") / rows.shape[1]


@spoken()
def embedding_distance(
    rows: Float[Tensor, "b d"], teacher_rows: Float[Tensor, "b d"], *, distance: Distance = "cosine"
) -> Float[Tensor, " b"]:
    """Distance of each row to the teacher's, which gets no gradient (Kim 2023, EmbedDistill, arXiv 2301.12005, embedding matching)."""
    refuse_bad_rows(rows=rows, teacher_rows=teacher_rows)
    if rows.shape != teacher_rows.shape:
        raise BadInput(f"teacher_rows: expected {tuple(rows.shape)}, found {tuple(teacher_rows.shape)}.")
    return pair_distances(rows, teacher_rows.detach(), distance)


def _student(queries: Tensor, candidates: Tensor, teacher_scores: Tensor) -> Tensor:
    """Dot products [b, k] of each query with its own candidates."""
    refuse_bad_rows(queries=queries)
    if candidates.ndim != 3 or len(candidates) != len(queries) or candidates.shape[1] < 2:
        raise BadInput(
            f"candidates: expected rows [b, k, d], 2 or more for each of {len(queries)} queries, found shape {tuple(candidates.shape)}. "
            "A softmax over one candidate is constant."
        )
    for k in range(candidates.shape[1]):
        refuse_bad_rows(queries=queries, candidates=candidates[:, k])
    finite_numbers("teacher_scores", teacher_scores, tuple(candidates.shape[:2]), "query and candidate")
    return torch.einsum("bd,bkd->bk", queries, candidates)

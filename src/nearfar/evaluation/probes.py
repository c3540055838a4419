"""What labelled things say of rows that were learned without the labels: the classes of the nearest neighbours, and a linear layer on top.

Both give one number per row judged, 1 where its class was told and 0 else, so that intervals and paired tests are those of everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadConfig, BadInput
from nearfar.similarity.nearest import topk

NEIGHBOURS = 20
"""Neighbours that vote, unless told otherwise: the best of those tried by Caron 2021; Wu 2018 took 200."""
VOTE_TEMPERATURE = 0.07
STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Weight decays of the linear layer that are tried."""


def knn_classes(
    rows: Float[np.ndarray, "q d"],
    bank: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    k: int = NEIGHBOURS,
    temperature: float = VOTE_TEMPERATURE,
    exclude: Int[np.ndarray, " q"] | None = None,
) -> Int[np.ndarray, " q"]:
    """The class of each row by the weighted vote of its `k` nearest of the bank: exp(similarity / temperature) each.

    Wu 2018 (arXiv 1805.01978, section 3.4), Caron 2021 (arXiv 2104.14294, appendix). Labels are whole numbers from 0; of equal votes the lowest label wins;
    `exclude` is the number in the bank that a row itself has. Pass unit rows. Raises `BadConfig` for k below 1, `BadInput` where labels and rows differ in number.
    """
    if k < 1 or temperature <= 0:
        raise BadConfig(f"k={k}, temperature={temperature}: expected a k of 1 or more and a temperature above 0.")
    _check_labels("bank", bank, labels)
    hits = topk(rows, bank, min(k, len(bank)), exclude=exclude)
    votes = np.zeros((len(rows), int(labels.max(initial=0)) + 1), np.float64)
    found = hits.ids >= 0
    # of the best hit, so that no vote is too large for a number; what all are divided by changes no order
    weights = np.where(found, np.exp((hits.scores - hits.scores[:, :1]) / temperature), 0.0)
    np.add.at(votes, (np.arange(len(rows))[:, None], labels[np.maximum(hits.ids, 0)]), weights)
    return votes.argmax(axis=1)


def knn_accuracy(
    rows: Float[np.ndarray, "q d"],
    row_labels: Int[np.ndarray, " q"],
    bank: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    k: int = NEIGHBOURS,
    temperature: float = VOTE_TEMPERATURE,
) -> Float[np.ndarray, " q"]:
    """1 for each row whose class its neighbours tell (`knn_classes`), 0 else: its mean is the accuracy, `bootstrap_interval` its interval."""
    _check_labels("rows", rows, row_labels)
    return (knn_classes(rows, bank, labels, k=k, temperature=temperature) == row_labels).astype(np.float64)


def linear_probe(
    rows: Float[np.ndarray, "q d"],
    row_labels: Int[np.ndarray, " q"],
    bank: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Float[np.ndarray, " q"]:
    """1 for each row whose class a linear layer tells that was fitted to the bank, 0 else.

    Logistic regression on standardized rows, by L-BFGS (Chen 2020, arXiv 2002.05709, appendix B.8), its weight decay the one of `strengths` that is best on a tenth
    of the bank. The rows judged choose nothing. Raises `BadInput` for a bank of fewer than 20 rows or of one class.
    """
    _check_labels("rows", rows, row_labels)
    _check_labels("bank", bank, labels)
    if len(bank) < 20 or len(np.unique(labels)) < 2:
        raise BadInput(
            f"bank: {len(bank):,} rows of {len(np.unique(labels))} classes. A linear layer wants 20 rows or more, and two classes."
        )
    mean, spread = bank.mean(axis=0), bank.std(axis=0) + 1e-6
    known, judged = (torch.from_numpy(((x - mean) / spread).astype(np.float32)) for x in (bank, rows))
    targets = torch.from_numpy(labels.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(bank))
    aside, rest = torch.from_numpy(order[: len(order) // 10]), torch.from_numpy(order[len(order) // 10 :])
    classes = int(labels.max()) + 1
    best = strengths[0]
    if len(strengths) > 1:
        tried = [_fit(known[rest], targets[rest], classes, strength) for strength in strengths]
        scores = [float((_apply(layer, known[aside]) == targets[aside]).float().mean()) for layer in tried]
        best = strengths[int(np.argmax(scores))]
    layer = _fit(known, targets, classes, best)
    return (_apply(layer, judged).numpy() == row_labels).astype(np.float64)


def effective_rank(rows: Float[np.ndarray, "n d"]) -> float:
    """How many dimensions the rows use: the exponential of the entropy of their singular values' shares, from 1 to d (Roy and Vetterli 2007).

    Near 1 all rows are one direction: a collapse. Garrido 2023 (RankMe, arXiv 2210.02885) uses it so. O(n d^2).
    """
    values = np.linalg.svd(np.asarray(rows, dtype=np.float64), compute_uv=False)
    shares = values[values > 0] / max(values.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def _fit(rows: Tensor, labels: Tensor, classes: int, strength: float) -> Tensor:
    """Weights [d + 1, classes] of the least cross-entropy plus strength / 2 times their squares (offsets apart)."""
    weights = torch.zeros(rows.shape[1] + 1, classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights], lr=1.0, max_iter=100, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        logits = torch.addmm(weights[-1], rows, weights[:-1])
        loss = F.cross_entropy(logits, labels) + strength / 2 * weights[:-1].square().sum()
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        solver.step(closure)
    return weights.detach()


def _apply(weights: Tensor, rows: Tensor) -> Tensor:
    return torch.addmm(weights[-1], rows, weights[:-1]).argmax(dim=1)


def _check_labels(name: str, rows: np.ndarray, labels: np.ndarray) -> None:
    if labels.shape != rows.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or (len(labels) and int(labels.min()) < 0):
        raise BadInput(
            f"{name}: expected {len(rows):,} labels, whole numbers from 0, found {labels.dtype} of shape {labels.shape}."
        )

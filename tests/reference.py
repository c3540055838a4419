"""Each loss as plain Python loops over numbers, written from its paper's equation: the specification of the fast versions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nearfar.types import Targets


def left_out(targets: Targets, row: int, column: int, positive: int) -> bool:
    """Whether this column is known not to be a negative of this row (the docstring of `Targets`, as one sentence of code)."""
    if column == positive:
        return False

    def same(a: Tensor | None, i: int, b: Tensor | None, j: int) -> bool:
        return a is not None and b is not None and int(a[i]) >= 0 and int(a[i]) == int(b[j])

    return (
        same(targets.row_groups, row, targets.column_groups, column)
        or same(targets.column_items, positive, targets.column_items, column)
        or same(targets.row_items, row, targets.column_items, column)
    )


def info_nce(
    queries: Tensor, candidates: Tensor, targets: Targets | None = None, *, temperature: float | Tensor = 0.05
) -> Tensor:
    """van den Oord 2018, eq. 4: -log of f(positive) over the sum of f(candidate), f = exp(q . c / t)."""
    targets = targets if targets is not None else Targets()
    losses = []
    for i in range(len(queries)):
        positive = i if targets.positive is None else int(targets.positive[i])
        below = torch.zeros((), dtype=queries.dtype)
        for j in range(len(candidates)):
            if not left_out(targets, i, j, positive):
                below = below + torch.exp(torch.dot(queries[i], candidates[j]) / temperature)
        losses.append(-torch.log(torch.exp(torch.dot(queries[i], candidates[positive]) / temperature) / below))
    return torch.stack(losses)


def log_sum(terms: list[Tensor]) -> Tensor:
    """log of the sum of exponentials, without a care for overflow."""
    return torch.log(sum((torch.exp(term) for term in terms), torch.zeros((), dtype=torch.float64)))


def directed(
    queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: Tensor, directions: tuple, partition: str
) -> Tensor:
    """InfoNCE in several directions (GTE, Li 2023, section 3.3, where joint; their mean as in CLIP where not)."""
    b, n = len(queries), len(candidates)
    place = [i if targets.positive is None else int(targets.positive[i]) for i in range(b)]

    def same(a: Tensor | None, i: int, c: Tensor | None, j: int) -> bool:
        return a is not None and c is not None and int(a[i]) >= 0 and int(a[i]) == int(c[j])

    items, groups, rows = targets.column_items, targets.column_groups, targets.row_groups
    losses = []
    for i in range(b):
        at = place[i]
        parts = {
            "query_to_candidate": [queries[i] @ candidates[j] for j in range(n) if not left_out(targets, i, j, at)],
            # another row of the same positive is no negative of it
            "candidate_to_query": [
                queries[k] @ candidates[at]
                for k in range(b)
                if k == i or (place[k] != at and not left_out(targets, k, at, place[k]))
            ],
            "query_to_query": [
                queries[i] @ queries[k]
                for k in range(b)
                if place[k] != at and not same(rows, i, rows, k) and not same(items, at, items, place[k])
            ],
            "candidate_to_candidate": [
                candidates[at] @ candidates[j]
                for j in range(n)
                if j != at and not same(groups, at, groups, j) and not same(items, at, items, j)
            ],
        }
        chosen = [[term / temperature for term in parts[name]] for name in directions]
        positive = queries[i] @ candidates[at] / temperature
        if partition == "joint":
            losses.append(log_sum([term for part in chosen for term in part]) - positive)
        else:
            losses.append(sum((log_sum(part) for part in chosen), torch.zeros(())) / len(chosen) - positive)
    return torch.stack(losses)


def nt_xent(view1: Tensor, view2: Tensor, *, temperature: float | Tensor) -> Tensor:
    """SimCLR (Chen 2020), eq. 1."""
    rows, b = torch.cat([view1, view2]), len(view1)
    losses = []
    for i in range(2 * b):
        below = [rows[i] @ rows[k] / temperature for k in range(2 * b) if k != i]
        losses.append(log_sum(below) - rows[i] @ rows[(i + b) % (2 * b)] / temperature)
    return torch.stack(losses)


def siglip(a: Tensor, b: Tensor, targets: Targets, *, temperature: float | Tensor, bias: float | Tensor) -> Tensor:
    """SigLIP (Zhai 2023), eq. 1, its inner sum."""
    losses = []
    for i in range(len(a)):
        at = i if targets.positive is None else int(targets.positive[i])
        terms = []
        for j in range(len(b)):
            if not left_out(targets, i, j, at):
                sign = 1.0 if j == at else -1.0
                terms.append(-torch.log(1 / (1 + torch.exp(-sign * (a[i] @ b[j] / temperature + bias)))))
        losses.append(sum(terms, torch.zeros(())))
    return torch.stack(losses)


def sup_con(rows: Tensor, labels: Tensor, *, temperature: float | Tensor, form: str) -> Tensor:
    """SupCon (Khosla 2020), eq. 2 ("out") and eq. 3 ("in")."""
    losses = []
    for i in range(len(rows)):
        below = log_sum([rows[i] @ rows[a] / temperature for a in range(len(rows)) if a != i])
        logs = [
            rows[i] @ rows[p] / temperature - below for p in range(len(rows)) if p != i and int(labels[p]) == int(labels[i])
        ]
        if form == "out":
            losses.append(-sum(logs, torch.zeros(())) / len(logs))
        else:
            losses.append(-torch.log(sum((torch.exp(x) for x in logs), torch.zeros(())) / len(logs)))
    return torch.stack(losses)


def _split(
    queries: Tensor, candidates: Tensor, targets: Targets, i: int, temperature: float | Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The positive's logit and those of the kept negatives."""
    at = i if targets.positive is None else int(targets.positive[i])
    kept = [j for j in range(len(candidates)) if j != at and not left_out(targets, i, j, at)]
    return queries[i] @ candidates[at] / temperature, [queries[i] @ candidates[j] / temperature for j in kept]


def decoupled(queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: float | Tensor) -> Tensor:
    """DCL (Yeh 2022): InfoNCE with the sum over negatives alone."""
    split = [_split(queries, candidates, targets, i, temperature) for i in range(len(queries))]
    return torch.stack([-positive + log_sum(negatives) for positive, negatives in split])


def debiased(queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: float, positive_prior: float) -> Tensor:
    """Debiased contrast (Chuang 2020), eq. 7 and 8 with M = 1."""
    losses = []
    for i in range(len(queries)):
        positive, negatives = _split(queries, candidates, targets, i, temperature)
        n = len(negatives)
        mean = torch.exp(log_sum(negatives)) / n
        estimate = (mean - positive_prior * torch.exp(positive)) / (1 - positive_prior)
        g = torch.maximum(estimate, torch.exp(torch.tensor(-1 / temperature, dtype=torch.float64)))
        losses.append(-torch.log(torch.exp(positive) / (torch.exp(positive) + n * g)))
    return torch.stack(losses)


def hardness_weighted(queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: float, strength: float) -> Tensor:
    """LLaVE (Lan 2025), eq. 5: negatives weighted by exp of their similarity, a constant."""
    losses = []
    for i in range(len(queries)):
        positive, negatives = _split(queries, candidates, targets, i, temperature)
        harder = [term + strength * float(term.detach()) * temperature for term in negatives]
        losses.append(log_sum([positive, *harder]) - positive)
    return torch.stack(losses)


def smoothed(queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: float | Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy 2016, section 7)."""
    losses = []
    for i in range(len(queries)):
        positive, negatives = _split(queries, candidates, targets, i, temperature)
        terms = [positive, *negatives]
        logs = [term - log_sum(terms) for term in terms]
        losses.append(-(1 - smoothing) * logs[0] - smoothing * sum(logs, torch.zeros(())) / len(logs))
    return torch.stack(losses)


def distance(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Of two vectors."""
    if kind == "cosine":
        return 1 - (a @ b) / (a.norm() * b.norm())
    squared = ((a - b) ** 2).sum()
    return squared if kind == "squared_euclidean" else squared.sqrt()


def contrastive(a: Tensor, b: Tensor, similar: list[bool], *, margin: float, kind: str) -> Tensor:
    """Hadsell 2006: half the squared distance, or half the squared violation."""
    losses = []
    for i, claim in enumerate(similar):
        d = distance(a[i], b[i], kind)
        losses.append(0.5 * d**2 if claim else 0.5 * torch.clamp(margin - d, min=0) ** 2)
    return torch.stack(losses)


def batch_triplet(rows: Tensor, labels: Tensor, *, margin: float | None, mining: str, kind: str) -> Tensor:
    """Hermans 2017, per anchor, over explicit lists of triplets."""

    def hinge(x: Tensor) -> Tensor:
        return torch.log(1 + torch.exp(x)) if margin is None else torch.clamp(x + margin, min=0)

    losses = []
    for i in range(len(rows)):
        others = [k for k in range(len(rows)) if k != i]
        near = [distance(rows[i], rows[k], kind) for k in others if int(labels[k]) == int(labels[i])]
        far = [distance(rows[i], rows[k], kind) for k in others if int(labels[k]) != int(labels[i])]
        if mining == "hardest":
            losses.append(hinge(torch.stack(near).max() - torch.stack(far).min()))
        elif mining == "all":
            losses.append(torch.stack([hinge(p - n) for p in near for n in far]).mean())
        else:
            each = []
            for p in near:
                beyond = [n for n in far if float(n.detach()) > float(p.detach())]
                each.append(hinge(p - (torch.stack(beyond).min() if beyond else torch.stack(far).max())))
            losses.append(torch.stack(each).mean())
    return torch.stack(losses)


def in_order(similarities: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    """CoSENT's double sum."""
    total = torch.ones((), dtype=similarities.dtype)
    for i in range(len(scores)):
        for j in range(len(scores)):
            if float(scores[i]) > float(scores[j]):
                total = total + torch.exp((similarities[j] - similarities[i]) / temperature)
    return torch.log(total)


def gist(
    queries: Tensor, candidates: Tensor, guide_q: Tensor, guide_c: Tensor, *, temperature: float, margin: float, relative: bool
) -> Tensor:
    """GIST (Solatorio 2024) with all three contrasts."""
    b, losses = len(queries), []
    for i in range(b):
        own = guide_q[i] @ guide_c[i]
        limit = float(own.detach() - (abs(own.detach()) * margin if relative else margin))
        terms = [
            queries[i] @ candidates[j] / temperature
            for j in range(len(candidates))
            if j == i or float(guide_q[i] @ guide_c[j]) <= limit
        ]
        for rows, guide in ((queries, guide_q), (candidates, guide_c)):
            terms += [rows[i] @ rows[k] / temperature for k in range(b) if k != i and float(guide[i] @ guide[k]) <= limit]
        losses.append(log_sum(terms) - queries[i] @ candidates[i] / temperature)
    return torch.stack(losses)


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Bardes 2022, eq. 1 to 6, entry by entry."""
    n, d = a.shape
    total = 25 * sum((((a[i] - b[i]) ** 2).sum() for i in range(n)), torch.zeros(())) / (n * d)
    for rows in (a, b):
        mean = sum((rows[i] for i in range(n)), torch.zeros(d)) / n
        covariance = sum((torch.outer(rows[i] - mean, rows[i] - mean) for i in range(n)), torch.zeros(d, d)) / (n - 1)
        for i in range(d):
            total = total + 25 * torch.clamp(1 - torch.sqrt(covariance[i, i] + 1e-4), min=0) / d
            for j in range(d):
                total = total + (covariance[i, j] ** 2 / d if i != j else 0)
    return total


def barlow_twins(a: Tensor, b: Tensor, *, redundancy: float) -> Tensor:
    """Zbontar 2021, eq. 1 and 2."""
    n, d = a.shape
    a, b = (rows - rows.mean(dim=0) for rows in (a, b))
    total = torch.zeros(())
    for i in range(d):
        for j in range(d):
            above = sum((a[k, i] * b[k, j] for k in range(n)), torch.zeros(()))
            c = above / (torch.sqrt((a[:, i] ** 2).sum()) * torch.sqrt((b[:, j] ** 2).sum()))
            total = total + ((1 - c) ** 2 if i == j else redundancy * c**2)
    return total


def uniformity(rows: Tensor, *, sharpness: float) -> Tensor:
    """Wang and Isola 2020, section 4.1: the log of the mean Gaussian potential of pairs."""
    n = len(rows)
    terms = [torch.exp(-sharpness * ((rows[i] - rows[j]) ** 2).sum()) for i in range(n) for j in range(n) if i != j]
    return torch.log(sum(terms, torch.zeros(())) / len(terms))


def margin_classes(rows: Tensor, prototypes: Tensor, labels: Tensor, *, margin: float, temperature: float, kind: str) -> Tensor:
    """CosFace (Wang 2018, eq. 4), ArcFace (Deng 2019, eq. 3) and ProxyNCA (Movshovitz-Attias 2017, eq. 4) of unit rows."""
    losses = []
    for i in range(len(rows)):
        cosines = [(rows[i] @ p) / (rows[i].norm() * p.norm()) for p in prototypes]
        own = int(labels[i])
        others = [c for k, c in enumerate(cosines) if k != own]
        if kind == "proxy":
            distances = [2 - 2 * c for c in cosines]
            below = log_sum([-x / temperature for k, x in enumerate(distances) if k != own])
            losses.append(distances[own] / temperature + below)
            continue
        mine = cosines[own] - margin if kind == "cos" else torch.cos(torch.acos(cosines[own]) + margin)
        losses.append(log_sum([mine / temperature, *(c / temperature for c in others)]) - mine / temperature)
    return torch.stack(losses)


def pairwise_logistic(similarities: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    """RankNet's cost (Burges 2005, eq. 3) where the order is certain, the mean over ordered pairs."""
    count = len(scores)
    ordered = [(i, j) for i in range(count) for j in range(count) if float(scores[i]) > float(scores[j])]
    terms = [torch.log(1 + torch.exp((similarities[j] - similarities[i]) / temperature)) for i, j in ordered]
    return torch.stack(terms).mean()


def list_mle(queries: Tensor, candidates: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """ListMLE (Xia 2008): candidates drawn one after another without return."""
    losses = []
    for i in range(len(queries)):
        order = sorted(range(candidates.shape[1]), key=lambda k: (-float(teacher[i, k]), k))
        logits = [queries[i] @ candidates[i, k] / temperature for k in order]
        losses.append(sum((log_sum(logits[place:]) - logits[place] for place in range(len(logits))), torch.zeros(())))
    return torch.stack(losses)


def info_nce_with_memory(
    queries: Tensor,
    candidates: Tensor,
    targets: Targets,
    memory: list[tuple[Tensor, int, int]],
    *,
    temperature: float | Tensor,
) -> Tensor:
    """MoCo (He 2020), eq. 1, with the batch's other candidates as negatives too; `memory` holds (row, item, group)."""
    losses = []
    for i in range(len(queries)):
        at = i if targets.positive is None else int(targets.positive[i])
        below = []
        for j in range(len(candidates)):
            someone_elses = targets.column_owners is not None and int(targets.column_owners[j]) not in (-1, i)
            if j == at or not (someone_elses or left_out(targets, i, j, at)):
                below.append(queries[i] @ candidates[j] / temperature)
        for row, item, group in memory:
            known = [
                targets.column_items is not None and item >= 0 and item == int(targets.column_items[at]),
                targets.row_items is not None and item >= 0 and item == int(targets.row_items[i]),
                targets.row_groups is not None and group >= 0 and group == int(targets.row_groups[i]),
            ]
            if not any(known):
                below.append(queries[i] @ row.detach() / temperature)
        losses.append(log_sum(below) - queries[i] @ candidates[at] / temperature)
    return torch.stack(losses)


def cross_batch(
    rows: Tensor, labels: Tensor, memory: Tensor, memory_labels: Tensor, itself: list, *, temperature: Tensor
) -> Tensor:
    """XBM (Wang 2020), algorithm 1, its pair-based loss being SupCon's L_out (Khosla 2020, eq. 2)."""
    losses = []
    for i in range(len(rows)):
        others = [k for k in range(len(memory)) if k != int(itself[i])]
        below = log_sum([rows[i] @ memory[k].detach() / temperature for k in others])
        logs = [rows[i] @ memory[k].detach() / temperature - below for k in others if int(memory_labels[k]) == int(labels[i])]
        losses.append(-sum(logs, torch.zeros(())) / len(logs))
    return torch.stack(losses)


def gradient_entropy(queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: float | Tensor) -> Tensor:
    """Entropy of the relative penalties of negatives (Wang and Liu 2021): exp(s_ij / t) over its sum over negatives j."""
    found = []
    for i in range(len(queries)):
        _, negatives = _split(queries, candidates, targets, i, temperature)
        shares = [torch.exp(term - log_sum(negatives)) for term in negatives]
        found.append(sum((-share * torch.log(share) for share in shares if float(share) > 0), torch.zeros(())))
    return torch.stack(found)


def hardest(queries: Tensor, candidates: Tensor, targets: Targets, *, margins: tuple[float, ...]) -> Tensor:
    """The nearest negative by cosine: one margin between it and the positive (Faghri 2018, max of hinges), or one for each (Wieting 2018)."""
    losses = []
    for i in range(len(queries)):
        at = i if targets.positive is None else int(targets.positive[i])
        cosines = [1 - distance(queries[i], c, "cosine") for c in candidates]
        nearest = torch.stack([x for j, x in enumerate(cosines) if j != at and not left_out(targets, i, j, at)]).max()
        if len(margins) == 1:
            losses.append(torch.clamp(margins[0] - cosines[at] + nearest, min=0))
        else:
            losses.append(torch.clamp(margins[0] - cosines[at], min=0) + torch.clamp(nearest - margins[1], min=0))
    return torch.stack(losses)


def layer_kl(layers: list[Tensor], *, temperature: float | Tensor) -> Tensor:
    """2DMSE (Li 2024), section 3.3: the divergence of each earlier layer from the last, of softmax over dimensions."""
    losses = []
    for i in range(len(layers[0])):
        total = torch.zeros(())
        for rows in layers[:-1]:
            below, teacher = log_sum(list(rows[i] / temperature)), list((layers[-1][i] / temperature).detach())
            for k in range(rows.shape[1]):
                log_p = teacher[k] - log_sum(teacher)
                total = total + torch.exp(log_p) * (log_p - (rows[i, k] / temperature - below)) * temperature
        losses.append(total)
    return torch.stack(losses)


def global_orthogonal(rows: Tensor) -> Tensor:
    """Zhang 2017: the first moment squared, and the second's excess over 1 / d, over pairs of rows."""
    count, d = rows.shape
    cosines = [1 - distance(rows[i], rows[j], "cosine") for i in range(count) for j in range(count) if i != j]
    first, second = torch.stack(cosines).mean(), torch.stack([c * c for c in cosines]).mean()
    return first * first + torch.clamp(second - 1 / d, min=0)


def contrastive_tension(a: Tensor, b: Tensor, similar: list[bool]) -> Tensor:
    """CT (Carlsson 2021): -log sigma(u . v) of the same sentence, -log(1 - sigma(u . v)) of others."""
    chances = [1 / (1 + torch.exp(-(a[i] @ b[i]))) for i in range(len(a))]
    return torch.stack([-torch.log(p if claim else 1 - p) for p, claim in zip(chances, similar, strict=True)])


def pair_classes(a: Tensor, b: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, *, features: tuple[str, ...]) -> Tensor:
    """SBERT (Reimers 2019), section 3: softmax(W (u, v, |u - v|))."""
    losses = []
    for i in range(len(a)):
        known = []
        for name in features:
            if name == "rows":
                known += [*a[i], *b[i]]
            else:
                known += [abs(x - y) if name == "difference" else x * y for x, y in zip(a[i], b[i], strict=True)]
        logits = [
            sum((w * x for w, x in zip(row, known, strict=True)), torch.zeros(())) + bias[k] for k, row in enumerate(weight)
        ]
        losses.append(log_sum(logits) - logits[int(labels[i])])
    return torch.stack(losses)


def score_kl(
    queries: Tensor, candidates: Tensor, teacher: Tensor, *, temperature: float | Tensor, teacher_temperature: float | Tensor
) -> Tensor:
    """Hinton 2015, section 2: KL of the teacher's softmax from the student's, times temperature squared."""
    losses = []
    for i in range(len(queries)):
        logits = [queries[i] @ c / temperature for c in candidates[i]]
        wanted = [t / teacher_temperature for t in teacher[i]]
        total = torch.zeros(())
        for own, want in zip(logits, wanted, strict=True):
            log_p = want - log_sum(wanted)
            total = total + torch.exp(log_p) * (log_p - (own - log_sum(logits)))
        losses.append(total * temperature**2)
    return torch.stack(losses)


def positive_aware(
    queries: Tensor, candidates: Tensor, targets: Targets, *, temperature: Tensor, share: float | None, margin: float | None
) -> Tensor:
    """InfoNCE without the negatives above a share of the positive's similarity, or above it less a margin (Moreira 2024, section 3.1)."""
    losses = []
    for i in range(len(queries)):
        positive, negatives = _split(queries, candidates, targets, i, 1.0)
        limit = float(positive.detach()) * share if share is not None else float(positive.detach()) - (margin or 0.0)
        kept = [positive, *(term for term in negatives if float(term.detach()) <= limit)]
        losses.append(log_sum([term / temperature for term in kept]) - positive / temperature)
    return torch.stack(losses)


def by_hardness(rows: Tensor, labels: Tensor, *, kind: str, **options: float) -> Tensor:
    """Circle (Sun 2020, eq. 4, 5, 8), multi-similarity (Wang 2019, eq. 15) and the lifted structure (Hermans 2017, eq. 8), anchor by anchor."""
    losses, count = [], len(rows)
    for i in range(count):
        others = [k for k in range(count) if k != i]
        near = [k for k in others if int(labels[k]) == int(labels[i])]
        far = [k for k in others if int(labels[k]) != int(labels[i])]
        cosine = {k: (rows[i] @ rows[k]) / (rows[i].norm() * rows[k].norm()) for k in others}
        if kind == "circle":
            m, t = options["margin"], options["temperature"]
            pulls = [-max(0.0, 1 + m - float(cosine[k].detach())) * (cosine[k] - 1 + m) / t for k in near]
            pushes = [max(0.0, float(cosine[k].detach()) + m) * (cosine[k] - m) / t for k in far]
            losses.append(torch.log(1 + torch.exp(log_sum(pulls)) * torch.exp(log_sum(pushes))))
        elif kind == "multi_similarity":
            a, b, base = options["positive_scale"], options["negative_scale"], options["base"]
            pull = 1 + sum((torch.exp(-a * (cosine[k] - base)) for k in near), torch.zeros(()))
            push = 1 + sum((torch.exp(b * (cosine[k] - base)) for k in far), torch.zeros(()))
            losses.append(torch.log(pull) / a + torch.log(push) / b)
        else:
            pull = log_sum([distance(rows[i], rows[k], "euclidean") for k in near])
            push = log_sum([options["margin"] - distance(rows[i], rows[k], "euclidean") for k in far])
            losses.append(torch.clamp(pull + push, min=0))
    return torch.stack(losses)


def choose_negatives(scores, positives, present, rule, counts, draws, taken, allowed):
    """Mining, as plain loops: the places chosen of each list, in the order chosen. Ranks are places, from 1."""
    chosen = []
    for i, row in enumerate(scores):
        candidates = []
        for j, score in enumerate(row):
            rank, p = j + 1, np.float32(positives[i])
            if not present[i][j] or rank > rule.depth or rank <= rule.skip_top:
                continue
            if rule.below_positive is not None and score > p - np.float32(1 - rule.below_positive) * abs(p):
                continue
            if rule.margin is not None and score > p - np.float32(rule.margin):
                continue
            if rule.max_score is not None and score > np.float32(rule.max_score):
                continue
            if rule.min_score is not None and score < np.float32(rule.min_score):
                continue
            if taken[i][j]:
                continue
            if rule.sampling == "top":
                turn = rank
            else:
                u = min((float(draws[i][j]) + 0.5) / 2.0**64, 1 - 2**-53)
                turn = u if rule.sampling == "random" else -(float(score) / rule.temperature - math.log(-math.log(u)))
            candidates.append((turn, j))
        own = []
        for _, j in sorted(candidates):
            if len(own) < counts[i] and allowed[i][j]:
                own.append(j)
        chosen.append(own)
    return chosen

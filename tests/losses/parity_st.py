"""Losses here that are classes of sentence-transformers 6.2: softmax, pairs, triplets."""

from __future__ import annotations

import torch

from peers_st import (
    CACHED,
    GRADES,
    GUIDE_N,
    GUIDE_P,
    GUIDE_Q,
    LABELS,
    MNRL,
    PAIR,
    SIMILAR,
    A,
    B,
    C,
    D,
    Z,
    batch,
    classifier,
    distance,
    guided,
    plain,
    proof,
    rows,
    tension,
)

UNIT = {"q": A, "p": B, "unit": True}
HARD = {**UNIT, "n": C}
BOTH = '("query_to_candidate", "candidate_to_query")'
THREE = '("query_to_candidate", "candidate_to_query", "query_to_query")'
ALL = '("query_to_candidate", "query_to_query", "candidate_to_query", "candidate_to_candidate")'
GUIDES = {"guide_q": GUIDE_Q, "guide_p": GUIDE_P}
PEER_ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
TWO_WAYS = ("query_to_doc", "doc_to_query")
SYMMETRIC, CACHED_SYMMETRIC = "MultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesSymmetricRankingLoss"

SOFTMAX = [
    proof(
        MNRL,
        "info_nce(q, torch.cat([p, n]), temperature=0.05).mean()",
        plain(MNRL),
        "unit rows; `scale` = 1 / temperature; all positives, then all negatives of each column",
        **HARD,
    ),
    proof(
        MNRL,
        f'info_nce(q, torch.cat([p, n]), temperature=0.05, directions={BOTH}, partition="joint").mean()',
        plain(MNRL, directions=TWO_WAYS),
        '`directions=("query_to_doc", "doc_to_query")`; there `partition_mode` is joint by default, here it is not; the positive counts twice',
        **HARD,
    ),
    proof(
        MNRL,
        f"info_nce(q, p, temperature=0.05, directions={BOTH}).mean()",
        plain(MNRL, directions=TWO_WAYS, partition_mode="per_direction"),
        '`partition_mode="per_direction"`; this is `clip(q, p, temperature=0.05)`',
        **UNIT,
    ),
    proof(
        MNRL,
        f'info_nce(q, torch.cat([p, n]), temperature=0.05, directions={THREE}, partition="joint").mean()',
        plain(MNRL, directions=("query_to_doc", "doc_to_query", "query_to_query")),
        "any subset without `doc_to_doc`, hard negatives or none",
        **HARD,
    ),
    proof(
        MNRL,
        f'info_nce(q, p, temperature=0.05, directions={ALL}, partition="joint").mean()',
        plain(MNRL, directions=PEER_ALL),
        "all four (GTE); without hard negatives: there `doc_to_doc` leaves out the query's own, here they count",
        **UNIT,
    ),
    proof(
        MNRL,
        "hardness_weighted(q, torch.cat([p, n]), temperature=0.05, strength=9.0).mean()",
        plain(MNRL, hardness_mode="all_negatives", hardness_strength=9.0),
        '`hardness_mode="all_negatives"`, `hardness_strength` = strength',
        **HARD,
    ),
    proof(
        MNRL,
        "hardness_weighted(q, p, temperature=0.05, strength=9.0).mean()",
        plain(MNRL, hardness_mode="in_batch_negatives", hardness_strength=9.0),
        '`hardness_mode="in_batch_negatives"`, without hard negatives',
        **UNIT,
    ),
    proof(
        CACHED,
        "info_nce(q, torch.cat([p, n]), temperature=0.05).mean()",
        plain(CACHED, mini_batch_size=3),
        "as the class that is not cached, in all its options: here there is nothing to choose",
        **HARD,
    ),
    proof(
        SYMMETRIC,
        f"info_nce(q, torch.cat([p, n]), temperature=0.05, directions={BOTH}).mean()",
        plain(SYMMETRIC),
        "from candidates to queries, hard negatives do not take part, here and there",
        **HARD,
    ),
    proof(
        CACHED_SYMMETRIC,
        f"info_nce(q, torch.cat([p, n]), temperature=0.05, directions={BOTH}).mean()",
        plain(CACHED_SYMMETRIC, mini_batch_size=3),
        "as above",
        **HARD,
    ),
    proof(
        "ContrastiveTensionLossInBatchNegatives",
        "clip(F.normalize(a, dim=1), F.normalize(b, dim=1), temperature=0.05).mean()",
        tension("ContrastiveTensionLossInBatchNegatives"),
        "a and b are rows of the two models; its scale is learned: pass a learnable temperature",
        **PAIR,
    ),
    proof(
        "GISTEmbedLoss",
        "gist(q, torch.cat([p, n]), guide_q, torch.cat([guide_p, guide_n]), temperature=0.05).mean()",
        guided("GISTEmbedLoss", [GUIDE_Q, GUIDE_P, GUIDE_N]),
        "unit rows of both models",
        **HARD,
        **GUIDES,
        guide_n=GUIDE_N,
    ),
    proof(
        "GISTEmbedLoss",
        "gist(q, p, guide_q, guide_p, temperature=0.05, margin=0.1).mean()",
        guided("GISTEmbedLoss", [GUIDE_Q, GUIDE_P], margin=0.1),
        '`margin_strategy="absolute"`',
        **UNIT,
        **GUIDES,
    ),
    proof(
        "GISTEmbedLoss",
        "gist(q, p, guide_q, guide_p, temperature=0.05, margin=0.05, relative=True).mean()",
        guided("GISTEmbedLoss", [GUIDE_Q, GUIDE_P], margin=0.05, margin_strategy="relative"),
        '`margin_strategy="relative"`',
        **UNIT,
        **GUIDES,
    ),
    proof(
        "GISTEmbedLoss",
        'gist(q, p, guide_q, guide_p, temperature=0.05, contrast=("candidates",)).mean()',
        guided("GISTEmbedLoss", [GUIDE_Q, GUIDE_P], contrast_anchors=False, contrast_positives=False),
        "`contrast_anchors` is `queries` in `contrast`, `contrast_positives` is `positives`",
        **UNIT,
        **GUIDES,
    ),
    proof(
        "CachedGISTEmbedLoss",
        "gist(q, torch.cat([p, n]), guide_q, torch.cat([guide_p, guide_n]), temperature=0.05).mean()",
        guided("CachedGISTEmbedLoss", [GUIDE_Q, GUIDE_P, GUIDE_N], mini_batch_size=3),
        "as the class that is not cached",
        **HARD,
        **GUIDES,
        guide_n=GUIDE_N,
    ),
]

PAIRS = [
    proof(
        "ContrastiveLoss",
        'contrastive(a, b, similar, margin=0.5, distance="cosine").mean()',
        plain("ContrastiveLoss", SIMILAR),
        "label 1 is similar",
        **PAIR,
        similar=SIMILAR,
    ),
    proof(
        "ContrastiveLoss",
        'contrastive(a, b, similar, margin=4.0, distance="euclidean").mean()',
        distance("ContrastiveLoss", "EUCLIDEAN", SIMILAR, margin=4.0),
        "`SiameseDistanceMetric.EUCLIDEAN`, which adds 1e-6 to every difference: equal to 1e-5",
        tolerance=1e-5,
        **PAIR,
        similar=SIMILAR,
    ),
    proof(
        "OnlineContrastiveLoss",
        "online_contrastive(a, b, similar).sum()",
        plain("OnlineContrastiveLoss", SIMILAR),
        "a sum, and no half",
        **PAIR,
        similar=SIMILAR,
    ),
    proof(
        "CosineSimilarityLoss",
        "cosine_regression(a, b, scores).mean()",
        plain("CosineSimilarityLoss", GRADES),
        "its own loss is MSE; it rounds labels to float32",
        **PAIR,
        scores=GRADES,
        tolerance=1e-6,
    ),
    proof(
        "CoSENTLoss",
        "cosent(a, b, scores, temperature=0.05)",
        plain("CoSENTLoss", GRADES),
        "`scale` = 1 / temperature",
        **PAIR,
        scores=GRADES,
    ),
    proof(
        "AnglELoss",
        "angle(a, b, scores, temperature=0.05)",
        plain("AnglELoss", GRADES),
        "`scale` = 1 / temperature",
        **PAIR,
        scores=GRADES,
    ),
    proof(
        "SoftmaxLoss",
        "pair_classes(a, b, labels, weight, bias).mean()",
        classifier(),
        "`weight` and `bias` are those of its `classifier`",
        **PAIR,
        labels=LABELS[:7],
        weight=rows(3, 20, 3 * D),
        bias=rows(1, 21, 3)[0],
    ),
    proof(
        "SoftmaxLoss",
        'pair_classes(a, b, labels, weight, bias, features=("rows", "difference", "product")).mean()',
        classifier(product=True),
        "`concatenation_sent_multiplication=True`",
        **PAIR,
        labels=LABELS[:7],
        weight=rows(3, 22, 4 * D),
        bias=rows(1, 23, 3)[0],
    ),
    proof(
        "ContrastiveTensionLoss",
        "contrastive_tension(a, b, similar).sum()",
        tension("ContrastiveTensionLoss", SIMILAR),
        "a sum; rows of two models as they are; similar is what is the same sentence",
        **PAIR,
        similar=SIMILAR,
    ),
]

TRIPLETS = [
    proof(
        "TripletLoss",
        "triplet(a, p, n, margin=5.0).mean()",
        plain("TripletLoss"),
        "rows as they are; `TripletDistanceMetric.EUCLIDEAN`",
        a=A,
        p=B,
        n=C,
    ),
    proof(
        "TripletLoss",
        'triplet(a, p, n, margin=0.5, distance="cosine").mean()',
        distance("TripletLoss", "COSINE", triplet_margin=0.5),
        "`TripletDistanceMetric.COSINE`",
        a=A,
        p=B,
        n=C,
    ),
    proof(
        "BatchHardTripletLoss",
        'batch_triplet(z, labels, margin=5.0, mining="hardest").mean()',
        batch("BatchHardTripletLoss"),
        "every row has a positive and a negative, which is asked for here",
        z=Z,
        labels=LABELS,
    ),
    proof(
        "BatchHardTripletLoss",
        'batch_triplet(z, labels, margin=0.2, mining="hardest", distance="cosine").mean()',
        batch("BatchHardTripletLoss", "cosine_distance", margin=0.2),
        "`cosine_distance`",
        z=Z,
        labels=LABELS,
    ),
    proof(
        "BatchHardSoftMarginTripletLoss",
        'batch_triplet(z, labels, margin=None, mining="hardest").mean()',
        batch("BatchHardSoftMarginTripletLoss"),
        "softplus in the place of a margin",
        z=Z,
        labels=LABELS,
    ),
    proof(
        "BatchSemiHardTripletLoss",
        '(batch_triplet(z, labels, margin=0.5, mining="semi_hard") * others).sum() / others.sum()',
        batch("BatchSemiHardTripletLoss", margin=0.5),
        "others: how many other rows have the row's label; there, the mean is over pairs, here over each row's pairs",
        z=Z,
        labels=LABELS,
        others=torch.bincount(LABELS)[LABELS] - 1,
    ),
    proof(
        "BatchAllTripletLoss",
        '(batch_triplet(z, labels, margin=50.0, mining="all") * others).sum() / others.sum()',
        batch("BatchAllTripletLoss", margin=50.0),
        "others: how many triplets start at the row; at a margin that none meets, since there the mean is over triplets with a loss above "
        "zero, here over all of each row's",
        z=Z,
        labels=LABELS,
        others=(torch.bincount(LABELS)[LABELS] - 1) * (len(LABELS) - torch.bincount(LABELS)[LABELS]),
    ),
    proof(
        "MegaBatchMarginLoss",
        "mega_batch_margin(a, b, positive_margin=0.8, negative_margin=0.3).mean()",
        plain("MegaBatchMarginLoss", mini_batch_size=3),
        "rows are made unit; with `use_mini_batched_version` or without",
        **PAIR,
    ),
    proof(
        "MegaBatchMarginLoss",
        "mega_batch_margin(a, b, positive_margin=0.9, negative_margin=-0.2).mean()",
        plain("MegaBatchMarginLoss", positive_margin=0.9, negative_margin=-0.2, use_mini_batched_version=False),
        "`use_mini_batched_version=False`; any margins",
        **PAIR,
    ),
]

PROOFS = [*SOFTMAX, *PAIRS, *TRIPLETS]

WITHOUT = {
    "DenoisingAutoEncoderLoss": "a decoder that writes the sentence again: a model's loss, not one of rows",
    'MultipleNegativesRankingLoss(hardness_mode="hard_negatives")': "weighs only the query's own hard negatives; `hardness_weighted` weighs every negative",
    "SiameseDistanceMetric.MANHATTAN, TripletDistanceMetric.MANHATTAN": "distances here are those a multiply can give",
}

"""Losses here that are classes of sentence-transformers 6.2: teachers, and losses of losses."""

from __future__ import annotations

from peers_st import CACHED, GRADES, MNRL, PAIR, SIMILAR, TEACHER, A, B, C, G, layered, nested, plain, proof, rows, spread

LAYERS = {"q1": rows(7, 11), "q2": rows(7, 12), "q3": A, "p1": rows(7, 13), "p2": rows(7, 14), "p3": B}

TEACHERS = [
    proof(
        "MarginMSELoss",
        "margin_mse(q, p, n, scores).mean()",
        plain("MarginMSELoss", GRADES),
        "labels are margins; dot products",
        q=A,
        p=B,
        n=C,
        scores=GRADES,
    ),
    proof(
        "MarginMSELoss",
        "margin_mse(q, p, torch.stack([n, m], dim=1), teacher[:, :1] - teacher[:, 1:]).mean()",
        plain("MarginMSELoss", TEACHER),
        "labels are the teacher's scores of the positive, then the negatives",
        q=A,
        p=B,
        n=C,
        m=G,
        teacher=TEACHER,
    ),
    proof(
        "DistillKLDivLoss",
        "score_kl(q, torch.stack([p, n, m], dim=1), teacher, temperature=2.0).mean()",
        plain("DistillKLDivLoss", TEACHER, temperature=2.0),
        "dot products",
        q=A,
        p=B,
        n=C,
        m=G,
        teacher=TEACHER,
    ),
    proof(
        "DistillKLDivLoss",
        "score_kl(q, torch.stack([p, n, m], dim=1), teacher, temperature=2.0, teacher_temperature=0.5).mean()",
        plain("DistillKLDivLoss", TEACHER, student_temperature=2.0, teacher_temperature=0.5),
        "`student_temperature` = temperature",
        q=A,
        p=B,
        n=C,
        m=G,
        teacher=TEACHER,
    ),
    proof(
        "MSELoss",
        "embedding_mse(a, teacher_rows).mean()",
        plain("MSELoss", G),
        "the mean over rows and dimensions",
        a=A,
        teacher_rows=G,
    ),
    proof(
        "EmbedDistillLoss",
        "embedding_distance(a, teacher_rows).mean()",
        plain("EmbedDistillLoss", G),
        "cosine; several columns: the mean",
        a=A,
        teacher_rows=G,
    ),
    proof(
        "EmbedDistillLoss",
        'embedding_distance(a, teacher_rows, distance="euclidean").mean()',
        plain("EmbedDistillLoss", G, distance_metric="l2"),
        '`distance_metric="l2"`; `"mse"` is `embedding_mse`; a `projection_dim` is a linear layer before the rows',
        a=A,
        teacher_rows=G,
    ),
]

COMPOSED = [
    proof(
        "GlobalOrthogonalRegularizationLoss",
        "(global_orthogonal(a) + global_orthogonal(b)) / 2",
        spread(),
        "the sum of the two terms it returns; their weights 1; `aggregation` the mean of the columns",
        **PAIR,
    ),
    proof(
        "MatryoshkaLoss",
        "matryoshka_info_nce(a, b, dims=(6, 4, 2), factors=(1.0, 0.5, 0.25), temperature=0.05).mean()",
        nested("MatryoshkaLoss", MNRL, matryoshka_dims=[6, 4, 2], matryoshka_weights=[1.0, 0.5, 0.25]),
        "of `MultipleNegativesRankingLoss`; a weighted sum, not a mean; each prefix is made unit; `n_dims_per_step=-1`",
        **PAIR,
    ),
    proof(
        "MatryoshkaLoss",
        "matryoshka(lambda q, c, targets: contrastive(q, c, similar), (6, 2))(a, b).mean()",
        nested("MatryoshkaLoss", "ContrastiveLoss", labels=SIMILAR, matryoshka_dims=[6, 2]),
        "of any other loss",
        **PAIR,
        similar=SIMILAR,
    ),
    proof(
        "MatryoshkaLoss",
        "matryoshka_info_nce(a, b, dims=(6, 3), factors=(1.0, 2.0), temperature=0.05).mean()",
        nested(
            "MatryoshkaLoss",
            CACHED,
            inner_options={"mini_batch_size": 3},
            matryoshka_dims=[6, 3],
            matryoshka_weights=[1.0, 2.0],
        ),
        "of `CachedMultipleNegativesRankingLoss`",
        **PAIR,
    ),
    proof(
        "AdaptiveLayerLoss",
        "layerwise(matryoshka(info_nce, (6,)))([q1, q2, q3], [p1, p2, p3]).mean() "
        "+ layer_kl([torch.cat([q1, p1]), torch.cat([q2, p2]), torch.cat([q3, p3])], temperature=0.3).mean()",
        layered("AdaptiveLayerLoss"),
        "of `MultipleNegativesRankingLoss` (`matryoshka` of one dimension only makes rows unit); `n_layers_per_step=-1`; its weights are `factors`",
        **LAYERS,
    ),
    proof(
        "AdaptiveLayerLoss",
        "layerwise(matryoshka(info_nce, (6,)), (0.6 / 2, 0.6 / 4, 1.5))([q1, q2, q3], [p1, p2, p3]).mean()",
        layered(
            "AdaptiveLayerLoss", last_layer_weight=1.5, prior_layers_weight=0.6, layer_weighting="linear", kl_div_weight=0.0
        ),
        "`last_layer_weight` 1.5, `prior_layers_weight` 0.6, `linear`: 1 / (1 + layer), over the number of prior layers; without KL",
        **LAYERS,
    ),
    proof(
        "Matryoshka2dLoss",
        "layerwise(matryoshka(info_nce, (6, 3), (1.0, 0.5)))([q1, q2, q3], [p1, p2, p3]).mean() "
        "+ layer_kl([torch.cat([q1, p1]), torch.cat([q2, p2]), torch.cat([q3, p3])], temperature=0.3).mean()",
        layered("Matryoshka2dLoss", matryoshka_dims=[6, 3], matryoshka_weights=[1.0, 0.5], n_dims_per_step=-1),
        "`n_layers_per_step=-1`, `n_dims_per_step=-1`; KL is of full rows",
        **LAYERS,
    ),
]


PROOFS = [*TEACHERS, *COMPOSED]

WITHOUT: dict[str, str] = {}

"""Losses: pure functions of rows that return one number per row (or say that they are one scalar), each naming its paper."""

from nearfar.losses.composed import matryoshka, matryoshka_info_nce, symmetric, weighted
from nearfar.losses.distillation import embedding_mse, list_mle, margin_mse, score_kl
from nearfar.losses.guided import gist
from nearfar.losses.info_nce import info_nce
from nearfar.losses.no_negatives import alignment, barlow_twins, uniformity, vicreg
from nearfar.losses.pairs import contrastive, cosine_regression, online_contrastive
from nearfar.losses.prototypes import arc_face, cos_face, proxy_nca, softmax_classes
from nearfar.losses.ranking import angle, cosent, pairwise_logistic
from nearfar.losses.softmax import debiased, decoupled, hardness_weighted, smoothed, sup_con
from nearfar.losses.triplets import batch_triplet, triplet
from nearfar.losses.two_views import clip, nt_xent, siglip

__all__ = [
    "alignment",
    "angle",
    "arc_face",
    "barlow_twins",
    "batch_triplet",
    "clip",
    "contrastive",
    "cos_face",
    "cosent",
    "cosine_regression",
    "debiased",
    "decoupled",
    "embedding_mse",
    "gist",
    "hardness_weighted",
    "info_nce",
    "list_mle",
    "margin_mse",
    "matryoshka",
    "matryoshka_info_nce",
    "nt_xent",
    "online_contrastive",
    "pairwise_logistic",
    "proxy_nca",
    "score_kl",
    "siglip",
    "smoothed",
    "softmax_classes",
    "sup_con",
    "symmetric",
    "triplet",
    "uniformity",
    "vicreg",
    "weighted",
]

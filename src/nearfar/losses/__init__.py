"""Losses: pure functions of rows that return one number per row (or say that they are one scalar), each naming its paper."""

from nearfar.losses.composed import matryoshka, matryoshka_info_nce, symmetric, weighted
from nearfar.losses.distillation import embedding_distance, embedding_mse, list_mle, margin_mse, score_kl
from nearfar.losses.guided import gist
from nearfar.losses.hardest import hardest_negative, mega_batch_margin
from nearfar.losses.info_nce import info_nce
from nearfar.losses.layers import layer_kl, layerwise
from nearfar.losses.memory import Queue, cross_batch, update_momentum
from nearfar.losses.modules import CLIP, ClassPrototypes, InfoNCE, SigLIP
from nearfar.losses.no_negatives import alignment, barlow_twins, global_orthogonal, uniformity, vicreg
from nearfar.losses.pairs import contrastive, contrastive_tension, cosine_regression, online_contrastive, pair_classes
from nearfar.losses.prototypes import arc_face, cos_face, proxy_nca, softmax_classes
from nearfar.losses.ranking import angle, cosent, pairwise_logistic
from nearfar.losses.softmax import debiased, decoupled, hardness_weighted, positive_aware, smoothed, sup_con
from nearfar.losses.temperature import SourceTemperatures, Temperature, cosine_temperature, gradient_entropy
from nearfar.losses.triplets import batch_triplet, triplet
from nearfar.losses.two_views import clip, nt_xent, siglip
from nearfar.losses.weighting import circle, lifted_structure, multi_similarity

__all__ = [
    "CLIP",
    "ClassPrototypes",
    "InfoNCE",
    "Queue",
    "SigLIP",
    "SourceTemperatures",
    "Temperature",
    "alignment",
    "angle",
    "arc_face",
    "barlow_twins",
    "batch_triplet",
    "circle",
    "clip",
    "contrastive",
    "contrastive_tension",
    "cos_face",
    "cosent",
    "cosine_regression",
    "cosine_temperature",
    "cross_batch",
    "debiased",
    "decoupled",
    "embedding_distance",
    "embedding_mse",
    "gist",
    "global_orthogonal",
    "gradient_entropy",
    "hardest_negative",
    "hardness_weighted",
    "info_nce",
    "layer_kl",
    "layerwise",
    "lifted_structure",
    "list_mle",
    "margin_mse",
    "matryoshka",
    "matryoshka_info_nce",
    "mega_batch_margin",
    "multi_similarity",
    "nt_xent",
    "online_contrastive",
    "pair_classes",
    "pairwise_logistic",
    "positive_aware",
    "proxy_nca",
    "score_kl",
    "siglip",
    "smoothed",
    "softmax_classes",
    "sup_con",
    "symmetric",
    "triplet",
    "uniformity",
    "update_momentum",
    "vicreg",
    "weighted",
]

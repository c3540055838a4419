"""Losses: pure functions of rows that return one number per row (or say that they are one scalar), each naming its paper."""

from nearfar.losses.distillation import embedding_mse, margin_mse, score_kl
from nearfar.losses.guided import gist
from nearfar.losses.info_nce import info_nce
from nearfar.losses.pairs import contrastive, cosine_regression, online_contrastive
from nearfar.losses.ranking import angle, cosent
from nearfar.losses.softmax import debiased, decoupled, hardness_weighted, smoothed, sup_con
from nearfar.losses.symmetric import clip, nt_xent, siglip
from nearfar.losses.triplets import batch_triplet, triplet

__all__ = [
    "angle",
    "batch_triplet",
    "clip",
    "contrastive",
    "cosent",
    "cosine_regression",
    "debiased",
    "decoupled",
    "embedding_mse",
    "gist",
    "hardness_weighted",
    "info_nce",
    "margin_mse",
    "nt_xent",
    "online_contrastive",
    "score_kl",
    "siglip",
    "smoothed",
    "sup_con",
    "triplet",
]

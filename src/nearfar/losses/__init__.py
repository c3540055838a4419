"""Losses: pure functions of rows that return one number per row, each naming its paper."""

from nearfar.losses.info_nce import info_nce
from nearfar.losses.softmax import debiased, decoupled, hardness_weighted, smoothed, sup_con
from nearfar.losses.symmetric import clip, nt_xent, siglip

__all__ = ["clip", "debiased", "decoupled", "hardness_weighted", "info_nce", "nt_xent", "siglip", "smoothed", "sup_con"]

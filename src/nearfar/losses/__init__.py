"""Losses: pure functions of rows that return one number per row, each naming its paper."""

from nearfar.losses.info_nce import info_nce

__all__ = ["info_nce"]

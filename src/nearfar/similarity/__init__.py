"""Similarities, a few rows at a time: the slab engine and top-k."""

from nearfar.similarity.nearest import topk
from nearfar.similarity.products import Precision
from nearfar.similarity.slabs import SLAB_BYTES, SlabOptions, differentiate_slabs, row_losses, slab_ranges, slab_rows

__all__ = [
    "SLAB_BYTES",
    "Precision",
    "SlabOptions",
    "differentiate_slabs",
    "row_losses",
    "slab_ranges",
    "slab_rows",
    "topk",
]

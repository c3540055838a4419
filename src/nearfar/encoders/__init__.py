"""Encoders: a token table or a transformer, or two of them, and what sees pictures, read and written as sentence-transformers' folders."""

from nearfar.encoders.adapt import AnyEncoder, adapt, grow, image_of, kind_of
from nearfar.encoders.computing import computing, refresh_copies
from nearfar.encoders.dense import Dense
from nearfar.encoders.distill import distill
from nearfar.encoders.image_load import pair_towers, small_image
from nearfar.encoders.image_text import ImageTextEncoder
from nearfar.encoders.load import load_encoder
from nearfar.encoders.lora import LoraOptions
from nearfar.encoders.pixels import Pixels
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.tokens import Prompts, Tokens
from nearfar.encoders.towers import TwoTowerEncoder, is_static
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.encoders.vision import ImageEncoder

__all__ = [
    "AnyEncoder",
    "Dense",
    "ImageEncoder",
    "ImageTextEncoder",
    "LoraOptions",
    "Pixels",
    "Prompts",
    "StaticEncoder",
    "Tokens",
    "TransformerEncoder",
    "TwoTowerEncoder",
    "adapt",
    "computing",
    "distill",
    "grow",
    "image_of",
    "is_static",
    "kind_of",
    "load_encoder",
    "pair_towers",
    "refresh_copies",
    "small_image",
]

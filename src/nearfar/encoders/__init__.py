"""Encoders: a token table or a transformer, or two of them, read and written as sentence-transformers' folders."""

from nearfar.encoders.adapt import AnyEncoder, adapt, grow
from nearfar.encoders.computing import computing, refresh_copies
from nearfar.encoders.dense import Dense
from nearfar.encoders.distill import distill
from nearfar.encoders.load import load_encoder
from nearfar.encoders.lora import LoraOptions
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.tokens import Prompts, Tokens
from nearfar.encoders.towers import TwoTowerEncoder, is_static
from nearfar.encoders.transformer import TransformerEncoder

__all__ = [
    "AnyEncoder",
    "Dense",
    "LoraOptions",
    "Prompts",
    "StaticEncoder",
    "Tokens",
    "TransformerEncoder",
    "TwoTowerEncoder",
    "adapt",
    "computing",
    "distill",
    "grow",
    "is_static",
    "load_encoder",
    "refresh_copies",
]

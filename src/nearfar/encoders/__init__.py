"""Encoders: a token table or a transformer, read and written as sentence-transformers' folders."""

from nearfar.encoders.distill import distill
from nearfar.encoders.load import computing, load_encoder
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.tokens import Prompts, Tokens
from nearfar.encoders.transformer import TransformerEncoder

__all__ = ["Prompts", "StaticEncoder", "Tokens", "TransformerEncoder", "computing", "distill", "load_encoder"]

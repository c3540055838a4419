"""A trained model carried to where it is used: an ONNX graph, a sentence-transformers folder with its card, a token table.

Names are fetched when first used: `OnnxModel` runs an exported graph and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfar.exporting.card import write_card
    from nearfar.exporting.folder import export_folder
    from nearfar.exporting.graph import export_onnx
    from nearfar.exporting.record import Exported, Quantized
    from nearfar.exporting.runtime import OnnxModel
    from nearfar.exporting.table import export_table, token_frequencies

_HOME = {
    "write_card": "card",
    "export_folder": "folder",
    "export_onnx": "graph",
    "Exported": "record",
    "Quantized": "record",
    "OnnxModel": "runtime",
    "export_table": "table",
    "token_frequencies": "table",
}

__all__ = [
    "Exported",
    "OnnxModel",
    "Quantized",
    "export_folder",
    "export_onnx",
    "export_table",
    "token_frequencies",
    "write_card",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nearfar.exporting' has no attribute {name!r}")
    return getattr(import_module(f"nearfar.exporting.{_HOME[name]}"), name)

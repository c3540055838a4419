"""Any encoder run in a chosen precision: its transformers in copies of their weights, its tables as always, since they multiply nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from nearfar.encoders.precision import Precision
from nearfar.encoders.transformer import TransformerEncoder


@contextmanager
def computing(encoder: object, precision: Precision, *, is_training: bool = False) -> Iterator[None]:
    """Inside, every transformer of `encoder` runs in this precision (see `TransformerEncoder.computing`)."""
    with ExitStack() as stack:
        for part in _transformers(encoder):
            stack.enter_context(part.computing(precision, is_training=is_training))
        yield


def refresh_copies(encoder: object) -> None:
    """After a step of the optimizer inside `computing`: copies take the parameters' new values."""
    for part in _transformers(encoder):
        if part.copies is not None:
            part.copies.refresh()


def _transformers(encoder: object) -> list[TransformerEncoder]:
    return (
        [part for part in encoder.modules() if isinstance(part, TransformerEncoder)] if isinstance(encoder, nn.Module) else []
    )

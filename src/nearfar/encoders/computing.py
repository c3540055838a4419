"""Any encoder run in a chosen precision: its transformers in copies of their weights, its image towers under autocast, its tables as always, since
they multiply nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from nearfar.encoders.adapt import AnyEncoder
from nearfar.encoders.clip_text import ClipText
from nearfar.encoders.precision import Precision
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.encoders.vision import ImageEncoder


@contextmanager
def computing(encoder: object, precision: Precision, *, is_training: bool = False) -> Iterator[None]:
    """Inside, every transformer and every image tower of `encoder` runs in this precision (see `TransformerEncoder.computing`)."""
    parts = encoder.modules() if isinstance(encoder, nn.Module) else ()
    with ExitStack() as stack:
        for part in [part for part in parts if isinstance(part, (TransformerEncoder, ImageEncoder, ClipText))]:
            stack.enter_context(part.computing(precision, is_training=is_training))
        yield


def refresh_copies(encoder: object) -> None:
    """After a step of the optimizer inside `computing`: copies take the parameters' new values."""
    for part in _transformers(encoder):
        if part.copies is not None:
            part.copies.refresh()


def weight_storages(encoder: object) -> set[int]:
    """Where the weights of an encoder lie in memory, copies in a lower precision included."""
    if not isinstance(encoder, nn.Module):
        return set()
    tensors = [*encoder.parameters(), *encoder.buffers()]
    tensors += [copy for part in _transformers(encoder) if part.copies is not None for copy in part.copies.tensors.values()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def pads(encoder: object) -> bool:
    """Whether texts encoded together are padded to the longest of them by some part of `encoder`."""
    parts = encoder.modules() if isinstance(encoder, nn.Module) else ()
    return any(isinstance(part, ClipText) for part in parts) or any(not part.is_packed for part in _transformers(encoder))


def training_width(encoder: AnyEncoder) -> int:
    """Width of a row in training mode, where an image tower's rows go on through its projector."""
    return encoder.training_dim if isinstance(encoder, ImageEncoder) else encoder.dim


def _transformers(encoder: object) -> list[TransformerEncoder]:
    return (
        [part for part in encoder.modules() if isinstance(part, TransformerEncoder)] if isinstance(encoder, nn.Module) else []
    )

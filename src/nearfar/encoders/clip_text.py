"""The text tower of a CLIP or a SigLIP as transformers has it, pooled as its makers pool it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nearfar.encoders.precision import Precision, lowered, lowering
from nearfar.encoders.tokens import NO_PROMPTS, Tokens, tokenize
from nearfar.encoders.transformer import backend_of, length_of, pad
from nearfar.types import Role

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PADDED = ("siglip", "siglip_text_model")
"""Models that were trained on texts filled to one length, the filler seen like any token, and whose row is that of the last place."""


class ClipText(nn.Module):
    """Texts to pooled rows [b, w], not unit: CLIP's row at the end of the text, SigLIP's at the last of its fixed number of places."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None) -> None:
        """Own both. SigLIP's texts are always as long as the model holds. Raises `BadConfig` for a length it cannot hold, `BadInput` without a
        fast tokenizer."""
        super().__init__()
        self.model, self.hf_tokenizer = model, tokenizer
        is_padded = model.config.model_type in PADDED
        holds = int(model.config.max_position_embeddings)
        self.max_length = holds if is_padded else length_of(max_length, tokenizer, model)
        self.tokenizer = backend_of(tokenizer, self.max_length, False)
        self._pad = int(tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
        if is_padded:
            self.tokenizer.enable_padding(length=holds, pad_id=self._pad, pad_token=str(tokenizer.pad_token))
        self.prompts, self.normalize = NO_PROMPTS, False
        self.dtype: torch.dtype | None = None
        """What the model multiplies in, where that is not its own."""

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        return self.model.device

    def prepare(self, items: Sequence[str], role: Role = "document") -> Tokens:
        """Tokens of texts, with the model's special tokens around. `BadInput` where not text."""
        return tokenize(self.tokenizer, items, prompt=self.prompts.of(role), special=True)

    def forward(self, inputs: Tokens) -> Float[Tensor, "b w"]:
        """Pooled rows of prepared texts, in their order. A CLIP reads from left to right, so that what fills a text up is never seen."""
        if len(inputs) == 0:
            return torch.zeros(0, self.dim, device=self.device)
        ids, _ = pad(inputs, self._pad)
        with lowered(self.device, self.dtype):
            found = self.model(input_ids=torch.from_numpy(ids).to(self.device))
        return found.pooler_output.float()

    def computing(self, precision: Precision, *, is_training: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002 - as transformers'
        """Inside, the model multiplies in this precision; rows come out in float32 all the same."""
        return lowering(self, precision)

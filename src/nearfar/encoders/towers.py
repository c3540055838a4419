"""Two towers: one encoder for queries and another for documents, whose rows meet in one space (Karpukhin 2020, section 3).

On disk a `Router` of sentence-transformers with a route for each role.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from nearfar.encoders import folder as disk
from nearfar.encoders.lora import save_adapter
from nearfar.encoders.static import StaticEncoder
from nearfar.encoders.tokens import Prompts, Tokens
from nearfar.encoders.transformer import TransformerEncoder
from nearfar.errors import BadInput
from nearfar.files import atomic_folder
from nearfar.types import Role

if TYPE_CHECKING:
    from jaxtyping import Float

Tower = StaticEncoder | TransformerEncoder
ROLES: tuple[Role, ...] = ("query", "document")
"""Tower 0 is for queries, tower 1 for documents."""


class TwoTowerEncoder(nn.Module):
    """Queries through `.query`, documents through `.document`; prepared texts remember which (`Tokens.towers`)."""

    def __init__(self, query: Tower, document: Tower) -> None:
        """Own both. Raises `BadInput` where their rows differ in width or only one makes them unit: they could not be compared."""
        super().__init__()
        if query.dim != document.dim:
            raise BadInput(
                f"the query tower gives rows of {query.dim} dimensions and the document tower of {document.dim}. Give both one width "
                "(a head, or truncate_dim)."
            )
        if query.normalize != document.normalize:
            raise BadInput("only one of the two towers makes its rows unit. Make it both or neither.")
        self.query, self.document = query, document

    @property
    def dim(self) -> int:
        """Width d of a row."""
        return self.document.dim

    @property
    def device(self) -> torch.device:
        """Where the parameters are and the rows appear."""
        return self.document.device

    @property
    def normalize(self) -> bool:
        """Whether rows are unit."""
        return self.document.normalize

    @property
    def max_length(self) -> int | None:
        """Tokens a document is cut to."""
        return self.document.max_length

    @property
    def prompts(self) -> Prompts:
        """The query tower's prompt for queries, the document tower's for documents."""
        return Prompts(self.query.prompts.query, self.document.prompts.document)

    @prompts.setter
    def prompts(self, prompts: Prompts) -> None:
        self.query.prompts = self.document.prompts = prompts

    def prepare(self, items: Sequence[str], role: Role = "document") -> Tokens:
        """Tokens of texts by the tower of this role, which they will go through. `BadInput` where not text or no such role."""
        self.prompts.of(role)
        number = ROLES.index(role)
        found = (self.query, self.document)[number].prepare(items, role)
        return replace(found, towers=np.full(len(found), number, np.uint8))

    def forward(self, inputs: Tokens) -> Float[torch.Tensor, "b d"]:
        """Rows of prepared texts, in their order, each from its tower; texts of both may be mixed."""
        if inputs.towers is None:
            raise BadInput(
                "these tokens do not say which tower they go through. Take them from this encoder's prepare(items, role)."
            )
        parts = [(tower, np.flatnonzero(inputs.towers == number)) for number, tower in enumerate((self.query, self.document))]
        for tower, places in parts:
            if len(places) == len(inputs):
                return tower(replace(inputs, towers=None))
        rows = [tower(replace(inputs.select(places), towers=None)) for tower, places in parts]
        order = np.argsort(np.concatenate([places for _, places in parts]), kind="stable")
        return torch.cat(rows)[torch.from_numpy(order).to(self.device)]

    def save(self, folder: Path) -> None:
        """Write a folder (whole or not at all) that `load_encoder` and sentence-transformers load to the same vectors."""
        with atomic_folder(folder) as target:
            query, document = self.query.write_parts(target, "query_"), self.document.write_parts(target, "document_")
            disk.write_router(target, query, document)
            disk.write_settings(target, self.prompts, normalize=self.normalize, truncate_dim=self._cut())
            for role, tower in (("query", self.query), ("document", self.document)):
                if isinstance(tower, TransformerEncoder):
                    save_adapter(tower.model, target / "adapter" / role)

    def fingerprint(self) -> str:
        """`sha256:<hex>` of both towers' fingerprints."""
        both = f"{self.query.fingerprint()}\0{self.document.fingerprint()}"
        return f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"

    def _cut(self) -> int | None:
        cuts = [tower.truncate_dim for tower in (self.query, self.document) if isinstance(tower, TransformerEncoder)]
        return next((cut for cut in cuts if cut is not None), None)


def is_static(encoder: nn.Module) -> bool:
    """Whether an encoder is made of token tables alone."""
    if isinstance(encoder, TwoTowerEncoder):
        return isinstance(encoder.query, StaticEncoder) and isinstance(encoder.document, StaticEncoder)
    return isinstance(encoder, StaticEncoder)

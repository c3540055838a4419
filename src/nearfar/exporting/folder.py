"""An encoder as a sentence-transformers folder, cut to its first dimensions if so told (Matryoshka: Kusupati 2022), with its card.

sentence-transformers cuts rows after they are made unit, which leaves them shorter than one. So a cut is written as a Dense module
before Normalize whose matrix keeps the first dimensions as they are: any version that knows Dense then gives the unit rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from nearfar.embedding import embed
from nearfar.encoders import AnyEncoder, Dense, StaticEncoder, TransformerEncoder, TwoTowerEncoder, image_of, load_encoder
from nearfar.encoders.adapt import cut_rows, rebuild
from nearfar.errors import BadInput
from nearfar.exporting.card import card_text
from nearfar.exporting.origin import read_origin
from nearfar.exporting.parity import TOLERANCE, both_rows, check_equal
from nearfar.exporting.record import Exported, check_out, shown_name, write_record
from nearfar.exporting.samples import SAMPLES
from nearfar.files import atomic_folder
from nearfar.types import Progress, silent


def export_folder(
    encoder: AnyEncoder,
    out: Path | str,
    *,
    name: str | Path,
    dim: int | None = None,
    language: str | None = None,
    texts: Sequence[str] = SAMPLES,
    progress: Progress = silent,
) -> Exported:
    """Write `out`: the model, `README.md` (its card) and `export.json`, whole or not at all; an earlier export is replaced.

    `name` is what the model is called: of a run, the card tells all that the run recorded. `dim` keeps that many dimensions and makes
    the rows unit. The folder is opened again and compared with the encoder on `texts`. Raises `BadInput` where `out` holds something
    else, `BadConfig` for an impossible `dim`, `Unfaithful` where the rows differ.
    """
    out = Path(out)
    refuse_images(encoder, name)
    check_out(out)
    made = keep_dim(encoder, dim)
    progress("export", 0, 2)
    with atomic_folder(out) as target:
        save_into(made, target)
        opened = load_encoder(target)
        progress("export", 1, 2)
        rows = both_rows(made, lambda items, role, _: embed(opened, items, role=role), texts)
        difference = check_equal(rows, "the saved folder")
        card = card_text(opened, shown_name(name), read_origin(name), language=language, dim=dim, load=out.name)
        (target / "README.md").write_text(card, encoding="utf-8")
        facts = {
            "to": "sentence-transformers",
            "source": shown_name(name),
            "model": opened.fingerprint(),
            "dim": opened.dim,
            "truncate_dim": dim,
            "parity": {"largest_difference": difference, "tolerance": TOLERANCE, "texts": len(texts)},
        }
        size = write_record(target, facts)
    progress("export", 2, 2)
    return Exported(out, "sentence-transformers", opened.dim, difference, len(texts), size)


def refuse_images(encoder: AnyEncoder, name: str | Path) -> None:
    """Raise `BadInput` for an encoder with an image tower: neither sentence-transformers' folders nor our graphs hold one."""
    if image_of(encoder) is not None:
        raise BadInput(
            f"{name}: this model sees pictures, and exports hold encoders of texts. Use its folder as it is: nearfar opens it, and transformers "
            "opens that of a CLIP or a SigLIP, or the image tower in its image/."
        )


def keep_dim(encoder: AnyEncoder, dim: int | None) -> AnyEncoder:
    """The encoder whose rows are the first `dim` dimensions, unit, by a table cut or a Dense that slices; it shares the weights.

    A cut that the encoder has already is written in the same way, so that its unit rows are unit in sentence-transformers too.
    Raises `BadConfig` where there are not so many dimensions.
    """
    if dim is not None:
        cut_rows(encoder, dim)  # says what is wrong with it
    if isinstance(encoder, TwoTowerEncoder):
        query, document = keep_dim(encoder.query, dim), keep_dim(encoder.document, dim)
        assert isinstance(query, (StaticEncoder, TransformerEncoder))
        assert isinstance(document, (StaticEncoder, TransformerEncoder))
        return TwoTowerEncoder(query, document)
    if isinstance(encoder, StaticEncoder):
        if dim is None:
            return encoder
        return StaticEncoder(
            encoder.weight[:, :dim], encoder.tokenizer, max_length=encoder.max_length, prompts=encoder.prompts, normalize=True
        )
    assert isinstance(encoder, TransformerEncoder)
    kept = dim if dim is not None else encoder.truncate_dim if encoder.normalize else None
    if kept is None:
        return encoder
    heads = [head for head in encoder.heads if isinstance(head, Dense)]
    width = heads[-1].out_features if heads else int(encoder.model.config.hidden_size)
    return rebuild(encoder, [*heads, _slice(width, kept)] if kept < width else heads, None, normalize=True)


def save_into(encoder: AnyEncoder, folder: Path) -> None:
    """Save an encoder into a folder that is there already (and is being written whole by the caller)."""
    inner = folder / ".saved"
    encoder.save(inner)
    for place in sorted(inner.iterdir()):
        os.replace(place, folder / place.name)
    inner.rmdir()


def _slice(width: int, kept: int) -> Dense:
    dense = Dense(width, kept, bias=False)
    dense.linear.weight.data = torch.eye(kept, width)
    return dense

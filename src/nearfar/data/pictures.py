"""Pictures: from encoded bytes to RGB pixels."""

from __future__ import annotations

import io

import numpy as np

from nearfar.errors import BadInput, Missing
from nearfar.types import Picture

MOST_PIXELS = 64_000_000
"""A picture that says it has more is refused before it is decoded: a few kilobytes can claim gigabytes."""


def decode(picture: Picture, size: int) -> np.ndarray:
    """Pixels [size, size, 3] uint8 of a picture: turned as its EXIF says, on white where transparent, its middle square, resized (bicubic).

    Raises `BadInput` naming the picture where it is not there, torn, no image, or larger than `MOST_PIXELS`; `Missing` without pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise Missing("pictures need pillow. Install it: pip install 'nearfar[vision]'.") from None
    try:
        with Image.open(io.BytesIO(picture.read())) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadInput(
                    f"{picture}: {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}. Make it smaller first."
                )
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                cut = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", cut.size, "white"), cut)
            found = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{picture}: this picture cannot be read ({error}). Save it again, or leave it out.") from None
    return np.asarray(found)

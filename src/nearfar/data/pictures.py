"""Pictures: from encoded bytes to RGB pixels."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from nearfar.errors import BadInput, Missing, NearfarError
from nearfar.types import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 64_000_000
"""A picture that says it has more is refused before it is decoded: a few kilobytes can claim gigabytes."""
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
"""What is opened, whatever a file is called; of pillow's other formats some start programs (EPS)."""
ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""What files of pictures are called."""


def is_picture_name(name: str) -> bool:
    """Whether a name ends as those of pictures do."""
    return name.lower().endswith(ENDINGS)


def decode(picture: Picture, size: int) -> np.ndarray:
    """Pixels [size, size, 3] uint8 of a picture: turned as its EXIF says, on white where transparent, its middle square, resized (bicubic).

    Of an animation the first frame. A JPEG more than twice as large is decoded at an eighth to a half of its size, as libjpeg can, which is several times as fast.
    Raises `BadInput` naming the picture where it is not there, torn, no image of `FORMATS`, or larger than `MOST_PIXELS`; `Missing` without pillow.
    """
    return decode_bytes(str(picture), read_bytes(picture), size)


def read_bytes(picture: Picture) -> bytes:
    """The encoded bytes of a picture. Raises `BadInput` naming it where they cannot be read."""
    try:
        return picture.read()
    except OSError as error:
        raise unreadable(picture, error) from None


def unreadable(picture: Picture, error: OSError) -> BadInput:
    """What to raise for a picture whose bytes cannot be read."""
    return BadInput(f"{picture}: this picture cannot be read ({error.strerror or error}). Put it there, or leave it out.")


def decode_bytes(name: str, data: bytes, size: int) -> np.ndarray:
    """`decode` of bytes that were read already; `name` is what an error calls them."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise Missing("pictures need pillow. Install it: pip install 'nearfar[vision]'.") from None
    if not data:
        raise BadInput(f"{name}: the picture's file is empty. Save it again, or leave it out.")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadInput(
                    f"{name}: {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}. Make it smaller first."
                )
            image.draft(None, (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(image)
            found = ImageOps.fit(_colours(upright), (size, size), Image.Resampling.BICUBIC)
    except NearfarError:
        raise
    except Image.DecompressionBombError:
        raise BadInput(f"{name}: far more pixels than {MOST_PIXELS:,}. Make it smaller first.") from None
    except Exception as error:  # damaged files make pillow's readers raise anything, from OSError to KeyError
        told = str(error).partition(" <_io")[0] or type(error).__name__
        raise BadInput(f"{name}: this picture cannot be read ({told}). Save it again, or leave it out.") from None
    return np.asarray(found)


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _colours(image: Image) -> Image:
    """The picture in RGB: 16 bits as 8, on white where transparent."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255):
            values = values / 257
        elif image.mode == "F" and values.max(initial=0) <= 1:
            values = values * 255
        return Image.fromarray(np.clip(np.round(np.nan_to_num(values)), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        cut = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", cut.size, "white"), cut).convert("RGB")
    return image.convert("RGB")

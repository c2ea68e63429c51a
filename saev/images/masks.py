"""A mask file -> a class id per pixel of its image, as the file has them and upright as the image is."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from saev.images.decoding import called, decoding, orientation
from saev.images.patch_labels import void_to_65535
from saev.images.source import ImageSource

ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
MASK_EXTENSIONS = {".bmp", ".gif", ".pgm", ".png", ".tif", ".tiff"}  # nothing lossy: it would mix ids
TRANSPOSING = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)
# PIL spreads grey of 2 and 4 bits over 0 to 255, which is right for pictures and wrong for ids
SPREAD = {"L;2": 85, "L;4": 17}


def open_mask(
    mask: str | Path | bytes,
    image: str | Path | bytes,
    void: Sequence[int] = (),
    names: tuple[str, str] = ("", ""),
) -> UInt16[np.ndarray, "height width"]:
    """Class ids of the image's pixels, void as 65535; OSError where a file cannot be read.

    A mask of the image's size as stored is turned as the image's EXIF orientation turns it; one with an orientation
    of its own is turned by that. ValueError naming both files where sizes disagree, and for masks of colours.
    """
    mask_name, image_name = map(called, (mask, image), names)
    with decoding(image, image_name, load=False) as picture:
        size, turn = picture.size, orientation(picture)
    upright_size = size[::-1] if turn in TRANSPOSING else size
    with decoding(mask, mask_name, load=False) as stored:
        mode, spread, own_turn = stored.mode, SPREAD.get(raw_mode(stored), 1), orientation(stored)
        if own_turn is None and stored.size == size:
            own_turn = turn
        turned = stored.copy() if own_turn is None else stored.transpose(own_turn)
    if mode not in ID_MODES:
        raise ValueError(
            f"the mask {mask_name} is of mode {mode}: colours are not class ids. Write each colour's id into a grey "
            "PNG of 8 or 16 bits, or a palette PNG."
        )
    if turned.size != upright_size:
        raise ValueError(
            f"the mask {mask_name} is {turned.width} x {turned.height} and its image {image_name} is {upright_size[0]} "
            f"x {upright_size[1]} pixels (upright): they must agree; resize the mask with nearest neighbours."
        )
    ids = np.asarray(turned)
    return void_to_65535(ids.astype(np.uint8) if mode == "1" else ids // spread, void, f"the mask {mask_name}")


def check_masks_open(images: ImageSource, tried: int = 8) -> None:
    """Try the masks of the first images: ValueError now for what would spoil each of thousands, such as colours."""
    for index in range(min(tried, len(images.paths()))):
        with suppress(OSError):  # a broken file is that file's alone
            images.mask(index)


def raw_mode(image: Image.Image) -> str:
    """How the file packs its pixels, in PIL's words; "" where PIL does not say. To be asked before it is loaded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return args if isinstance(args, str) else str(args[0]) if args else ""

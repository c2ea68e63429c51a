"""A mask file -> a class id per pixel of its image, unchanged and upright like the image."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from saev.images.opening import name_of, open_image, orientation, raw_mode, stored_size, upright
from saev.images.patch_labels import void_to_65535
from saev.images.source import ImageSource

ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
MASK_EXTENSIONS = {".bmp", ".gif", ".pgm", ".png", ".tif", ".tiff"}  # lossless: lossy compression changes ids
TRANSPOSING = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
)
# PIL scales grey of 2 and 4 bits to 0 to 255, which is right for photos and wrong for ids
SCALE = {"L;2": 85, "L;4": 17}


def open_mask(
    mask: str | Path | bytes,
    image: str | Path | bytes,
    void: Sequence[int] = (),
    names: tuple[str, str] = ("", ""),
) -> UInt16[np.ndarray, "height width"]:
    """Class ids of the image's pixels, void as 65535; OSError where a file cannot be read.

    A mask is turned upright by its own EXIF orientation if it has one, else by the image's if it has the image's stored
    size. ValueError naming both files where sizes disagree, and for masks of colours.
    """
    mask_name, image_name = map(name_of, (mask, image), names)
    with open_image(image, image_name, load=False) as picture:
        size, image_turn = stored_size(picture), orientation(picture)
    upright_size = size[::-1] if image_turn in TRANSPOSING else size
    with open_image(mask, mask_name, load=False) as stored:
        mode, scale = stored.mode, SCALE.get(raw_mode(stored), 1)
        follows = orientation(stored) is None and stored_size(stored) == size
        stored.load()  # before `upright`, because it turns a TIFF
        turned = stored.transpose(image_turn) if image_turn is not None and follows else upright(stored)
    if mode not in ID_MODES:
        raise ValueError(
            f"the mask {mask_name} has mode {mode}: colours are not class ids. Write each colour's id into a grey "
            "PNG of 8 or 16 bits, or a palette PNG."
        )
    if turned.size != upright_size:
        raise ValueError(
            f"the mask {mask_name} is {turned.width} x {turned.height} and its image {image_name} is {upright_size[0]} "
            f"x {upright_size[1]} pixels (upright): they must agree; resize the mask with nearest neighbours."
        )
    ids = np.asarray(turned)
    return void_to_65535(ids.astype(np.uint8) if mode == "1" else ids // scale, void, f"the mask {mask_name}")


def check_masks_open(images: ImageSource, tried: int = 8) -> None:
    """Open the masks of the first images: ValueError for a fault that all masks probably have, such as colours."""
    for index in range(min(tried, len(images.paths()))):
        with suppress(OSError):  # one broken file says nothing about the others
            images.mask(index)

"""Decoding image files of any mode, depth and orientation to upright RGB."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

# EXIF orientation -> the transposition that turns the image upright (EXIF 2.3, tag 0x0112)
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_rgb(file: str | Path | bytes, name: str = "") -> Image.Image:
    """Decode an image file (or its bytes) to 8-bit RGB, upright by its EXIF orientation.

    OSError naming the file on failure; `name` names bytes in messages.
    """
    with open_image(file, name) as image:
        rgb = to_rgb(upright(image))
        return rgb.copy() if rgb is image else rgb  # independent of the file


@contextmanager
def open_image(file: str | Path | bytes, name: str = "", load: bool = True) -> Iterator[Image.Image]:
    """The image in a file (only its header unless `load`); every failure is an OSError naming the file."""
    try:
        # not by its path: PIL 12 maps an uncompressed TIFF with the upright width, which scrambles it if it is turned
        with BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as source, Image.open(source) as image:
            if load:
                image.load()
            yield image
    except Exception as error:  # PIL raises a dozen types on broken files (SyntaxError, struct.error, zlib.error, ...)
        raise OSError(f"{name_of(file, name)}: {type(error).__name__}: {error}") from error


def name_of(file: str | Path | bytes, name: str = "") -> str:
    """The name of an image in messages."""
    return name or (f"an image of {len(file)} bytes" if isinstance(file, bytes) else Path(file).name)


def orientation(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns the image upright; None if it is upright."""
    return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before the image is turned: PIL has a TIFF's upright size, and turns it upright when it loads it."""
    tags = getattr(image, "tag_v2", None)
    return (tags[256], tags[257]) if tags else image.size


def upright(image: Image.Image) -> Image.Image:
    """The image turned upright by its EXIF orientation."""
    turn = orientation(image)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode: transparency over white, 16-bit by its upper byte, floats in [0, 1] times 255.

    PIL's `convert("RGB")` would clip 16-bit greys to white and show transparent pixels.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # I;16, I;16B, I: PNG and TIFF greys of 16 bits
        return _grey(np.asarray(image).astype(np.int64).clip(0, 65535) >> 8)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return _grey((values * (255 if values.max() <= 1 else 1)).clip(0, 255))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")

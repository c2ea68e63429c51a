"""Decoding image files of any mode, depth and orientation to upright RGB."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
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
    with open_image(file, name, load=False) as image:
        deep = "16" in raw_mode(image)
        image.load()
        rgb = to_rgb(upright(image))
        if deep and image.mode.startswith("RGB") and 0 < np.asarray(rgb).max() < 16:
            raise ValueError(
                "its 16-bit colours use 12 bits or fewer, and PIL reads the upper 8 alone: store it with 8 bits"
            )
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


def raw_mode(image: Image.Image) -> str:
    """PIL's name of the file's pixel format, "" if unknown; only valid before the image is loaded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return args if isinstance(args, str) else str(args[0]) if args else ""


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode: transparency over white, greys of other types as `to_grey` scales them.

    PIL's `convert("RGB")` would clip 16-bit greys to white and show transparent pixels. `info["levels"]` of the result
    says how a grey of another type was read.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):  # I;16, I;16B, I, F
        grey, low, high = to_grey(np.asarray(image))
        rgb = Image.fromarray(grey).convert("RGB")
        rgb.info["levels"] = f"of mode {image.mode} read as {low:g} (black) to {high:g} (white)"
        return rgb
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def to_grey(
    values: Shaped[np.ndarray, "height width"],
) -> tuple[UInt8[np.ndarray, "height width"], float, float]:
    """8-bit grey, and the values that are black and white.

    Integers have the fewest of 8, 12, 16 or more bits that hold them. White is 1 for floats up to 1, which may exceed it by
    a tenth, as resizing overshoots; so are 255, 4095, 65535 for floats beyond a sixteenth of them; else their maximum. Values
    well below 0 are stretched from their minimum to their maximum. Infinite values and NaN do not count.
    """
    integers, finite = values.dtype.kind in "ui", values[np.isfinite(values)]
    least, most = (finite.min().item(), finite.max().item()) if finite.size else (0, 0)
    if integers and least >= 0:
        bits = next((bits for bits in (8, 12, 16) if most < 1 << bits), most.bit_length())
        return (values >> (bits - 8)).astype(np.uint8), 0, (1 << bits) - 1
    whites = (level for level in (1, 255, 4095, 65535) if (level == 1 or most > level / 16) and most <= 1.1 * level)
    low, high = 0, next(whites, most)
    if least < -0.1 * high:
        low, high = least, most
    scaled = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low
    return np.rint((scaled * (255 / (high - low or 1))).clip(0, 255)).astype(np.uint8), low, high

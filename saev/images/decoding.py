"""Any picture file -> upright RGB, whatever its mode, depth or orientation."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

# EXIF orientation -> the transpositions that put the picture upright (EXIF 2.3, tag 0x0112)
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
    """Decode a picture file (or its bytes) to 8-bit RGB, rotated as its EXIF orientation says.

    OSError naming the file on failure; `name` says what to call bytes.
    """
    with decoding(file, name) as image:
        picture = to_rgb(upright(image))
        return picture.copy() if picture is image else picture  # free of the file


@contextmanager
def decoding(file: str | Path | bytes, name: str = "", load: bool = True) -> Iterator[Image.Image]:
    """The image in a file (only its header unless `load`); whatever goes wrong is an OSError naming the file."""
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            if load:
                image.load()
            yield image
    except Exception as error:  # PIL raises a dozen types on broken files (SyntaxError, struct.error, zlib.error, ...)
        raise OSError(f"{called(file, name)}: {type(error).__name__}: {error}") from error


def called(file: str | Path | bytes, name: str = "") -> str:
    """What to call a picture in a message."""
    return name or (f"a picture of {len(file)} bytes" if isinstance(file, bytes) else Path(file).name)


def orientation(image: Image.Image) -> Image.Transpose | None:
    """What has to be done to put the image upright; None for nothing."""
    return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says it is to be seen."""
    turn = orientation(image)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode: transparency over white, 16-bit by its upper byte, floats in [0, 1] times 255.

    PIL's own `convert("RGB")` would clip 16-bit greys to white and uncover what transparency hides.
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

"""Photos for the page: each one as the model saw it, embedded once, with heat maps laid over it.

A thumbnail is one CSS class however often it is shown. A heat map is a PNG with one pixel per patch, which the browser
enlarges without smoothing.
"""

import base64
import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from saev.shards import ActivationStore
from saev.vits.flex import FlexTransform
from saev.vits.transform import ImageTransform

HEAT = (230, 0, 100)  # magenta, rare in photos of nature
STRONGEST = 0.75  # opacity of a code at the common upper value: the photo stays visible


@runtime_checkable
class Images(Protocol):
    """What the page needs of an image source."""

    def paths(self) -> list[str]:
        """Keys of the images; image i is opened by `open(i)`."""
        ...

    def open(self, index: int) -> Image.Image:
        """Image `index`, upright and in RGB."""
        ...


class Album:
    """Thumbnails of a dataset's images, made on demand, and the errors of photos that could not be opened."""

    def __init__(self, images: Images | None, store: ActivationStore, side: int = 144, quality: int = 78):
        self.images, self.store, self.side, self.quality = images, store, side, quality
        self.uris: dict[int, str] = {}
        self.sizes: dict[int, tuple[int, int]] = {}  # of the thumbnails: width, height
        self.missing: dict[int, str] = {}

    @cached_property
    def _index(self) -> Mapping[str, int]:
        """Path -> index in the image source: the recording is usually shuffled."""
        if self.images is None:
            return {}
        try:
            return {path: i for i, path in enumerate(self.images.paths())}
        except (OSError, ValueError):  # `add` records an error for each photo
            return {}

    def add(self, example: int) -> bool:
        """Make the thumbnail of an image of the store; whether it could be made."""
        if example in self.uris or example in self.missing:
            return example in self.uris
        path = self.path(example)
        try:
            if self.images is None:
                raise FileNotFoundError("no image source was given")
            if path not in self._index:
                raise FileNotFoundError(f"{path} is missing from the image source")
            picture = self.images.open(self._index[path])
        except (OSError, ValueError) as error:  # moved, deleted, unreadable: the page goes without it
            self.missing[example] = str(error)
            return False
        view = model_view(picture, self.store.manifest.meaning.get("vit", {}), self.side)
        self.uris[example], self.sizes[example] = uri_of(view, "jpeg", quality=self.quality), view.size
        return True

    def path(self, example: int) -> str:
        """The image's path relative to its source."""
        return str(self.store.examples["path"][example])


def model_view(picture: Image.Image, vit: Mapping[str, Any], side: int) -> Image.Image:
    """The part of a picture that the backbone saw, in its aspect ratio, at most `side` pixels long and never enlarged.

    `vit` is the backbone's identity in the manifest (image_size, resize, ...); without it the whole picture.
    """
    transform = seen_by(vit, picture.size)
    box, size = transform.box(*picture.size), transform.size
    longest = min(side, round(max(box[2] - box[0], box[3] - box[1])))
    height, width = (max(1, round(longest * length / max(size))) for length in size)
    top, left, h, w = transform.covered(*picture.size)
    shown = max(1, round(w * width / size[1])), max(1, round(h * height / size[0]))
    view = picture.convert("RGB").resize(shown, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if shown == (width, height):
        return view
    padded = Image.new("RGB", (width, height), "grey")
    padded.paste(view, (round(left * width / size[1]), round(top * height / size[0])))
    return padded


def seen_by(vit: Mapping[str, Any], size: tuple[int, int]) -> ImageTransform:
    """The geometry of the transform of a manifest's backbone for a picture of this size (width, height)."""
    plain = (0.0,) * 3, (1.0,) * 3
    if vit.get("resize") == "flex":
        return FlexTransform(vit["n_patches"], vit["patch"], *plain, fit=vit["fit"]).at(*size)
    height, width = vit.get("image_size") or size[::-1]
    return ImageTransform((height, width), *plain, resize=vit.get("resize", "crop"))


def uri_of(picture: Image.Image, kind: str, **options: Any) -> str:
    """The picture as a data URI of this kind, jpeg or png."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heat(codes: Float[np.ndarray, "grid_h grid_w"], upper: float) -> UInt8[np.ndarray, "grid_h grid_w 4"]:
    """RGBA, a pixel per patch: one colour, its opacity proportional to the code, `STRONGEST` at `upper` and beyond."""
    pixels = np.empty((*codes.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.rint(255 * STRONGEST * np.clip(codes / upper, 0, 1)) if upper > 0 else 0
    return pixels


def png(pixels: UInt8[np.ndarray, "height width 4"]) -> str:
    """RGBA pixels as a PNG data URI."""
    return uri_of(Image.fromarray(pixels, "RGBA"), "png")

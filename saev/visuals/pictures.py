"""Photos for the page: each one as the model saw it, embedded once, and the codes by which the page's script marks it.

A thumbnail is one CSS class however often it is shown. A map is a byte per patch.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from saev.shards import ActivationStore
from saev.visuals.masks import Masks
from saev.vits.flex import FlexTransform
from saev.vits.transform import ImageTransform

STEPS = 255  # of a byte


@dataclass(frozen=True)
class Shown:
    """One image of one latent: what page.html.j2's macro `photo` draws."""

    example: int
    path: str
    label: str  # class of the image, or of its strongest patch; "" where the recording has none
    value: str
    photo: bool  # whether the album has its thumbnail
    grid: str = ""  # patches down and across; "" without a map
    map: str = ""  # `map_bytes`
    mask: str = ""  # a bit per patch, whether it is of the class `label`, in base64


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

    def __init__(self, images: Images | None, store: ActivationStore, side: int = 320, quality: int = 75):
        self.images, self.store, self.side, self.quality = images, store, side, quality
        self.masks = Masks(store)
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

    def add(self, example: int, side: int | None = None) -> bool:
        """Make the thumbnail of an image of the store, with this many pixels or the album's `side`; whether it could be made."""
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
        view = model_view(picture, self.store.manifest.meaning.get("vit", {}), side or self.side)
        self.uris[example], self.sizes[example] = uri_of(view, self.quality), view.size
        return True

    def shown(
        self, example: int, value: str, map: Float[np.ndarray, "grid_h grid_w"] | None = None, upper: float = 0.0
    ) -> Shown:
        """The image with a code's text, and with the codes of its patches; `upper` is the latent's highest value."""
        shown = Shown(example, self.path(example), self.label(example), value, self.add(example))
        if map is None:
            return shown
        shown = replace(shown, grid="{} {}".format(*map.shape), map=map_bytes(map, upper))
        if (peak := self.masks.at_peak(example, map)) is None:
            return shown
        return replace(shown, label=peak[0], mask=packed(np.packbits(peak[1])))

    def label(self, example: int) -> str:
        """The image's class; "" where the recording has none."""
        return str(self.store.examples["class"][example] or "") if "class" in self.store.examples.columns else ""

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


def uri_of(picture: Image.Image, quality: int) -> str:
    """The picture as a data URI: WebP, a third smaller than JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def packed(array: Shaped[np.ndarray, "*shape"]) -> str:
    """The array's bytes, little-endian, in base64."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def as_bytes(codes: Float[np.ndarray, "*shape"], upper: float) -> UInt8[np.ndarray, "*shape"]:
    """Codes from 0 to `upper` as bytes, rounded up, so that a code above 0 stays above 0; NaN is 0."""
    return np.ceil(STEPS * np.clip(np.nan_to_num(codes) / (upper or 1.0), 0, 1)).astype(np.uint8)


def map_bytes(codes: Float[np.ndarray, "grid_h grid_w"], upper: float) -> str:
    """A map as base64 of a byte per patch; "" for a map of zeros."""
    coded = as_bytes(codes, upper)
    return packed(coded) if coded.any() else ""

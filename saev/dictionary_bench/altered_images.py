"""Pairs of images that differ in one thing, made from images with masks: a class is recoloured, or painted over."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from saev.dictionary_bench.paired_images import COLUMNS, MIN_PAIRS
from saev.files import write_atomically
from saev.images.source import ImageSource
from saev.progress import bar
from saev.shards.manifest import VOID

Alteration = Literal["painted_over", "recoloured"]
SMALLEST, LARGEST = 0.02, 0.6  # fraction of an image that a class covers
TABLE, FOLDER = "pairs.csv", "images"


def write_pairs(
    images: ImageSource,
    indices: Sequence[int],
    directory: Path,
    how: Alteration,
    most: int = 40,
    seed: int = 0,
    ignored: Sequence[int] = (),
) -> Path:
    """Write pairs of (image, the same altered) below `directory`, and the csv of them (`read_pairs`), whose path is returned.

    painted_over: the pixels of a class get the mean colour of the others. recoloured: their hue is turned by half a circle. Of each class
    that covers between SMALLEST and LARGEST of at least MIN_PAIRS images, but those `ignored`, at most `most` images, drawn at random. The
    attribute is the class's name. ValueError for images without masks, or without such a class.
    """
    if images.labelling is None:
        raise ValueError(
            f"pairs={how} needs masks: give images with masks, images=segmentation images.root=..., or a csv of pairs."
        )
    void, names = {VOID, *images.labelling.void, *ignored}, images.labelling.classes
    by_class: dict[int, list[int]] = {}
    with bar("Masks", len(indices)) as advance:
        for index in indices:
            mask = images.mask(index)
            if mask is not None:
                ids, counts = np.unique(mask, return_counts=True)
                for id, fraction in zip(ids.tolist(), (counts / mask.size).tolist(), strict=True):
                    if id not in void and SMALLEST <= fraction <= LARGEST:
                        by_class.setdefault(id, []).append(index)
            advance(1)
    frequent = {id: indices for id, indices in sorted(by_class.items()) if len(indices) >= MIN_PAIRS}
    if not frequent:
        raise ValueError(
            f"pairs={how}: no class covers {SMALLEST:.0%} to {LARGEST:.0%} of at least {MIN_PAIRS} images."
        )
    rng, rows = np.random.default_rng(seed), []
    (directory / FOLDER).mkdir(parents=True, exist_ok=True)
    with bar("Altered images", len(frequent)) as advance:
        for id, of_class in frequent.items():
            for index in sorted(rng.permutation(of_class)[:most].tolist()):
                picture, mask = np.asarray(images.open(index).convert("RGB")), images.mask(index)
                assert mask is not None, "it had one"
                files = f"{index:06d}.png", f"{index:06d}-{id}.png"
                for file, content in zip(files, (picture, ALTERATIONS[how](picture, mask == id)), strict=True):
                    if not (path := directory / FOLDER / file).is_file():
                        write_atomically(path, as_png(content))
                rows.append((*files, names.get(id, str(id))))
            advance(1)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([COLUMNS, *rows])
    write_atomically(directory / TABLE, buffer.getvalue().encode())
    return directory / TABLE


def painted_over(picture: UInt8[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The region in the mean colour of the rest."""
    out = picture.copy()
    out[region] = picture[~region].mean(0).round().astype(np.uint8)
    return out


def recoloured(picture: UInt8[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The region in the opposite hue; grey stays grey."""
    hsv = np.array(Image.fromarray(picture).convert("HSV"))
    hsv[..., 0] += 128  # of 256, modulo 256
    turned = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return np.where(region[..., None], turned, picture)


ALTERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "painted_over": painted_over,
    "recoloured": recoloured,
}


def as_png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()

"""The codes by image, pooled over its encoded tokens: CSR [images, latents] of the latents that fire on the image.

images.parquet: a row per image: those of the recording's table, and `rows` (start, stop) among the codes' rows.
image_offsets.npy int64 [images + 1], image_latents.npy int32 [nnz]; image_{max,mean,top3}.npy float32, image_active.npy int32 [nnz].
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Int, Int32, Int64

from saev.codes.arrays import GrowingArray, array_path, ranges
from saev.files import replacing, sha256
from saev.shards.selected_tokens import Selection

IMAGES, OFFSETS, LATENTS = "images.parquet", "image_offsets.npy", "image_latents.npy"
POOLS = ("max", "mean", "top3", "active")
PIECE = 1 << 22  # pairs that are pooled at once


class Pooled(NamedTuple):
    """Pooled codes of some images in CSR: `max`, `mean` over the tokens, mean of the `top3` largest, and `active` tokens.

    Tokens on which a latent does not fire count as 0.
    """

    offsets: Int64[np.ndarray, " images_and_1"]
    latents: Int32[np.ndarray, " nnz"]
    max: Float32[np.ndarray, " nnz"]
    mean: Float32[np.ndarray, " nnz"]
    top3: Float32[np.ndarray, " nnz"]
    active: Int32[np.ndarray, " nnz"]


def pool(
    image: Int[np.ndarray, " pairs"],
    latent: Int32[np.ndarray, " pairs"],
    value: Float32[np.ndarray, " pairs"],
    n_tokens: Int[np.ndarray, " images"],
    n_latents: int,
) -> Pooled:
    """Pool (image, latent, value) pairs, in any order, of images with these numbers of tokens; images * n_latents < 2^32."""
    bits = value.view(np.uint32)
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # as integers in the order of the values
    key = image.astype(np.uint64) * np.uint64(n_latents) + latent.astype(np.uint64)
    packed = np.sort(key << np.uint64(32) | (~ascending).astype(np.uint64))  # by image and latent, largest value first
    group = packed >> np.uint64(32)
    ascending = ~packed.astype(np.uint32)
    value = np.where(ascending >> 31, ascending ^ np.uint32(1 << 31), ~ascending).view(np.float32)
    starts = np.flatnonzero(np.diff(group, prepend=group[:1] + np.uint64(1)))
    active = np.diff(np.append(starts, len(value)))
    group = group[starts].astype(np.int64)
    image, latents = group // n_latents, (group % n_latents).astype(np.int32)
    n = n_tokens[image]
    largest = np.full((len(starts), 6), -np.inf, np.float32)  # the three largest codes, and the zeros of other tokens
    for rank in range(3):
        has = active > rank
        largest[has, rank] = value[starts[has] + rank]
        largest[n - active > rank, 3 + rank] = 0
    largest.sort(axis=1)
    kept = np.minimum(n, 3)
    top = np.where(np.arange(3) < kept[:, None], largest[:, :2:-1], 0).sum(1, dtype=np.float64) / kept
    total = np.add.reduceat(value.astype(np.float64), starts) if len(starts) else np.zeros(0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(n_tokens)))])
    means = (total / n).astype(np.float32), top.astype(np.float32)
    return Pooled(offsets, latents, largest[:, 5], *means, active.astype(np.int32))


def write_by_image(root: Path, selection: Selection, n_latents: int) -> dict[str, str]:
    """Write the view of a directory's shards; the sha256 of each file."""
    table = image_rows(selection)
    start, stop = (table["rows"].struct.field(name).to_numpy() for name in ("start", "stop"))
    kinds = dict.fromkeys(POOLS, "float32") | {"active": "int32", "offsets": "int64", "latents": "int32"}
    arrays = {name: GrowingArray(root / f"image_{name}.npy", dtype) for name, dtype in kinds.items()}
    arrays["offsets"].append(np.zeros(1, np.int64))
    written = first = number = 0  # pairs, rows and images of the shards before
    try:
        for shard, n_rows in enumerate(selection.rows.tolist()):
            indptr, latents, values = (np.load(array_path(root, shard, a)) for a in ("indptr", "indices", "values"))
            end = int(np.searchsorted(stop, first + n_rows, "right"))  # whole images: none is in two shards
            bounds = np.append(start[number:end], first + n_rows) - first
            for low, high in ranges(indptr[bounds], PIECE, most_items=(1 << 32) // n_latents - 1):
                rows = slice(int(bounds[low]), int(bounds[high]) + 1)
                pairs = slice(int(indptr[bounds[low]]), int(indptr[bounds[high]]))
                n_tokens = np.diff(bounds[low : high + 1])
                image = np.repeat(np.repeat(np.arange(high - low), n_tokens), np.diff(indptr[rows]))
                pooled = pool(image, latents[pairs], values[pairs].astype(np.float32), n_tokens, n_latents)
                arrays["offsets"].append(written + pooled.offsets[1:])
                for name in ("latents", *POOLS):
                    arrays[name].append(getattr(pooled, name))
                written += len(pooled.latents)
            first, number = first + n_rows, end
        digests = {array.path.name: array.commit() for array in arrays.values()}
    except BaseException:
        for array in arrays.values():
            array.discard()
        raise
    with replacing(root / IMAGES) as file:
        table.write_parquet(file)
    return {IMAGES: sha256(root / IMAGES), **digests}


def image_rows(selection: Selection) -> pl.DataFrame:
    """The recording's table of the selected images that have tokens, with `example` and their rows among the codes."""
    spans = selection.spans
    ends = np.cumsum(spans.stop - spans.start)
    example, last = np.unique(spans.example[::-1], return_index=True)  # spans of an image stand together
    stop = ends[len(ends) - 1 - last]
    start = np.concatenate([[0], stop[:-1]])
    table = selection.store.examples[example.tolist()]
    rows = pl.DataFrame({"start": start, "stop": stop}).to_struct("rows")
    return table.with_columns(pl.Series("example", example), rows)

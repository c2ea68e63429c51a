"""Localisation of latents: Moran's I of their maps, as ViSAEBench defines it, of all latents and all their images."""

import numpy as np
from jaxtyping import Int64

from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured

MIN_IMAGES = 50  # with a valid map, as in ViSAEBench
LOCALISED = 0.1  # Moran's I from which a latent counts as localised there


def localisation(
    codes: ImageCodes, draws: Int64[np.ndarray, "images n"] | None = None, min_images: int = MIN_IMAGES
) -> Measured:
    """Mean over latents of the mean Moran's I over the images with a valid map, of latents with at least `min_images` of them.

    Null: the mean over all permutations of the patches of each image, in closed form: -1 / (patches - 1) of every valid map.
    `n`: latents measured. latents: `morans_i`, `morans_i_images` (valid maps). `draws` resample the images, of the same latents.
    details: `median`, `std`, `fraction_not_localised` (latents below 0.1), `images` (that have a grid); without a grid, or without
    a latent of enough images, the value is NaN and `reason` says why.
    """
    valid = ~np.isnan(codes.morans_i)
    counts = np.bincount(codes.latents[valid], minlength=codes.n_latents)
    sums = np.bincount(codes.latents[valid], codes.morans_i[valid], codes.n_latents)
    measured = counts >= min_images
    each = np.full(codes.n_latents, np.nan)
    each[counts > 0] = sums[counts > 0] / counts[counts > 0]
    columns = {"morans_i": each, "morans_i_images": counts}
    n_images = int(codes.images.grids.all(1).sum())
    if not measured.any():
        reason = (
            f"no latent has a valid map on min_images={min_images} images"
            if n_images
            else "no image has a grid of recorded patches"
        )
        return Measured(float("nan"), latents=columns, details={"reason": reason, "images": n_images})
    value = each[measured].mean()
    resampled = np.zeros(0)
    if draws is not None:
        maps, ones = (
            codes.matrix(a)[:, np.flatnonzero(measured)].T.tocsr().astype(np.float64)
            for a in (np.where(valid, codes.morans_i, 0), valid)
        )
        drawn = draws.astype(np.float64)
        images = ones @ drawn
        resampled = np.nanmean(
            np.divide(maps @ drawn, images, where=images > 0, out=np.full_like(images, np.nan)), axis=0
        )
    patches = codes.images.grids.prod(1)
    expected = np.repeat(-1 / np.maximum(patches - 1, 1), np.diff(codes.offsets))
    null = np.bincount(codes.latents[valid], expected[valid], codes.n_latents)[measured] / counts[measured]
    details = {
        "median": float(np.median(each[measured])),
        "std": float(each[measured].std()),
        "fraction_not_localised": float((each[measured] < LOCALISED).mean()),
        "images": n_images,
    }
    return Measured(float(value), float(null.mean()), int(measured.sum()), resampled, columns, details)

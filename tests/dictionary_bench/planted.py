"""Codes of images made by hand."""

import numpy as np
from scipy.sparse import csr_matrix

from saev.dictionary_bench.image_codes import ImageActivations, ImageCodes


def planted(
    largest: np.ndarray, mean: np.ndarray | None = None, reconstruction: np.ndarray | None = None
) -> ImageCodes:
    """Codes with these max-pooled values [images, latents], of images with 16 patches each."""
    n = len(largest)
    mean = np.zeros((n, 2)) if mean is None else mean
    reconstruction = mean if reconstruction is None else reconstruction
    pairs = csr_matrix(largest)
    images = ImageActivations(
        "planted", np.arange(n), np.full(n, 16), mean.astype(np.float32), 16 * mean.sum(1), 16 * (mean**2).sum(1) + 1,
        16 * ((mean - mean.mean(0)) ** 2).sum(1) + 1, np.full((n, 2), 4),
    )  # fmt: skip
    residual = mean - reconstruction
    return ImageCodes(
        images, largest.shape[1], pairs.indptr.astype(np.int64), pairs.indices.astype(np.int32),
        pairs.data.astype(np.float32), np.ones(pairs.nnz, np.int32), np.full(pairs.nnz, np.nan, np.float32),
        16 * residual.sum(1), 16 * (residual**2).sum(1), reconstruction.astype(np.float32),
    )  # fmt: skip


def class_codes(per_class: int = 20, classes: int = 4, noise: int = 30, seed: int = 0) -> tuple[ImageCodes, np.ndarray]:
    """Codes with one latent for each class and latents of noise, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    codes = rng.exponential(size=(len(labels), classes + noise)) * (rng.random((len(labels), classes + noise)) < 0.3)
    codes[:, :classes] = (labels[:, None] == np.arange(classes)) * (1 + rng.random((len(labels), 1)))
    return planted(codes.astype(np.float32)), labels

"""A dictionary's codes by image, and what was recorded of these images: all that the measures of a bench read.

Both come from one pass over the recorded activations, `saev.dictionary_bench.encoding.codes_by_image`.
"""

import dataclasses
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Shaped
from scipy.sparse import csr_matrix


@dataclasses.dataclass(frozen=True)
class ImageActivations:
    """Activations of some images of one layer, summed over the tokens of each; every sum in float64.

    Args:
        recording: its name.
        example: the images' numbers in the recording, in ascending order: row i of everything is image i of these.
        tokens: how many tokens each has.
        mean: over the tokens of each image.
        total: the sum over tokens and dimensions of x; `square`: of x^2; `variation`: of (x - m)^2, m being the mean over all
            tokens of all these images.
        grids: rows and columns of patches; 0 where the recording does not say, or where not all patches are selected.
    """

    recording: str
    example: Int64[np.ndarray, " images"]
    tokens: Int64[np.ndarray, " images"]
    mean: Float32[np.ndarray, "images d_model"]
    total: Float64[np.ndarray, " images"]
    square: Float64[np.ndarray, " images"]
    variation: Float64[np.ndarray, " images"]
    grids: Int64[np.ndarray, "images 2"]

    def __len__(self) -> int:
        return len(self.example)


@dataclasses.dataclass(frozen=True)
class ImageCodes:
    """A dictionary's codes pooled over the tokens of each image, and its reconstructions of them.

    In CSR [images, latents], a pair for each image and each latent that fires on it (a code that is not 0, on any token).

    Args:
        images: shared by all dictionaries of a pass.
        max: the largest code over all tokens of the image, those count as 0 on which the latent does not fire; `active`: on how many
            tokens it fires; `morans_i`: of its map, NaN where the map is not valid (`saev.dictionary_bench.spatial.morans_i`).
        residual_total: the sum over tokens and dimensions of r = x - x_hat; `residual_square`: of r^2; both in float64.
        reconstruction: mean over the tokens of each image of x_hat.
    """

    images: ImageActivations
    n_latents: int
    offsets: Int64[np.ndarray, " images_and_1"]
    latents: Int32[np.ndarray, " nnz"]
    max: Float32[np.ndarray, " nnz"]
    active: Int32[np.ndarray, " nnz"]
    morans_i: Float32[np.ndarray, " nnz"]
    residual_total: Float64[np.ndarray, " images"]
    residual_square: Float64[np.ndarray, " images"]
    reconstruction: Float32[np.ndarray, "images d_model"]

    def matrix(self, values: Shaped[np.ndarray, " nnz"]) -> csr_matrix:
        """[images, latents] of these values of the pairs."""
        return csr_matrix((values, self.latents, self.offsets), (len(self.images), self.n_latents))

    @cached_property
    def pooled(self) -> csr_matrix:
        """[images, latents] of `max`, in float64 so that sums over images lose no digits."""
        return self.matrix(self.max.astype(np.float64))

    @cached_property
    def live(self) -> Bool[np.ndarray, " latents"]:
        """The latents with a positive maximum on some image."""
        return np.bincount(self.latents[self.max > 0], minlength=self.n_latents) > 0

    @cached_property
    def firings(self) -> Int64[np.ndarray, " latents"]:
        """Per latent, the number of tokens on which it fires."""
        return np.bincount(self.latents, self.active, self.n_latents).astype(np.int64)

    @cached_property
    def images_active(self) -> Int64[np.ndarray, " latents"]:
        """Per latent, the number of images on which it fires."""
        return np.bincount(self.latents, minlength=self.n_latents)

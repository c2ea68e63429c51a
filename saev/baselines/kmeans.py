"""k-means: atoms are the centroids of clusters, fitted on a sample by faiss, then by exact Lloyd passes over all tokens."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.baseline import Baseline
from saev.baselines.fitter import Fitter
from saev.baselines.lloyd import Clusters
from saev.baselines.nearest import blocks, distances, full_precision, nearest
from saev.baselines.settings import KMeans
from saev.nn.centroids import ENOUGH, kmeans
from saev.nn.normalise import Normaliser
from saev.nn.settings import PER_CENTROID
from saev.settings import listed

CODES = ("onehot", "inverse")
EPS = 1e-6
FEW = 32768  # sample tokens at least given to faiss; a smaller sample gets no further passes
SAMPLE_PASSES = 6
BEYOND = 0.8
"""Centroids move past their clusters' means by this fraction of the step. Below 1 a step cannot raise the inertia, and half
as many passes reach the same inertia (over-relaxation: Salakhutdinov & Roweis, ICML 2003, section 3)."""


class KMeansDictionary(Baseline):
    """Centroids in normalised space as a dictionary; `code` defines the codes f of a token z.

    - `onehot`: 1 for the nearest centroid (the first of equally near centroids), so L0 = 1; decoding gives that centroid.
    - `inverse`: f_k = 1 / (1e-6 + ||z - c_k||), dense; decoding gives sum_k f_k c_k / sum_k f_k, the weighted mean. Codes
      are not normalised: as scores of a concept they rank tokens by distance alone.
    """

    kind: ClassVar[str] = "kmeans"

    def __init__(self, normaliser: Normaliser, atoms: Float[Tensor, "n_latents d_model"], code: str = "onehot"):
        super().__init__(normaliser, atoms)
        if code not in CODES:
            raise ValueError(f"code={code} of k-means: choose {listed(CODES)}.")
        self.code = code

    def codes(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Codes of normalised activations, in float32 also under autocast."""
        if self.code == "inverse":
            return 1 / (EPS + distances(z, self.atoms_))
        index, _ = nearest(z, self.atoms_)
        return torch.zeros(len(z), self.n_latents, device=z.device).scatter_(1, index[:, None], 1.0)

    def decode(self, codes: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d_model"]:
        """Raw activations: the mean of the centroids weighted by inverse distances, or the centroid of a one-hot code."""
        if self.code == "inverse":
            codes = codes.float() / codes.float().sum(1, keepdim=True)
        with full_precision(codes):
            return super().decode(codes)


class KMeansFitter(Fitter):
    """Lloyd's method in passes over the stream, from the centroids of a sample; between passes centroids are moved BEYOND the
    means of their clusters, after the last one onto them.

    Centroids start from faiss on half of the sample (at least FEW tokens, and ENOUGH per centroid), then SAMPLE_PASSES over the
    whole sample, each of which saves a pass over the stream.

    After a pass that lowers the inertia by less than `tol` and leaves no cluster empty, `n_passes` becomes the number of passes
    done and further batches are ignored.
    """

    state = ("centroids", "means", "clusters", "populations", "inertia", "done", "n_passes")

    def __init__(self, settings: KMeans):
        self.settings, self.n_passes = settings, settings.passes
        self.sample_tokens = max(2 * FEW, PER_CENTROID * settings.n_latents)
        self.done, self.inertia = 0, math.inf
        self.populations = torch.zeros(settings.n_latents, dtype=torch.int64)

    def start(self, normaliser: Normaliser, sample: Float[Tensor, "n d_model"], n_tokens: int) -> None:
        """Centroids of the sample; ValueError where it has fewer tokens than n_latents."""
        few = min(len(sample), n_tokens)
        if few < self.settings.n_latents:
            raise ValueError(
                f"n_latents={self.settings.n_latents} of k-means: there are {few} tokens, each centroid needs at least "
                "one, better 39: lower n_latents, or record more images."
            )
        self.normaliser = normaliser
        advice = "record more images, or lower n_latents"
        first = sample[: max(len(sample) // 2, FEW, ENOUGH * self.settings.n_latents)]
        self.centroids = kmeans(
            first, self.settings.n_latents, self.settings.seed, self.settings.n_init, advice
        ).float()
        self.means = self.centroids
        self._begin_pass()
        for _ in range(SAMPLE_PASSES if len(first) < len(sample) else 0):
            self._add(sample)
            self._move(self.settings.seed)

    def update(self, z: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        """Add a batch to the clusters of its tokens' nearest centroids."""
        if self.done < self.n_passes:
            self._add(z)

    def finish_pass(self) -> Mapping[str, float]:
        """Move the centroids towards their clusters' means, and beyond.

        Returns numbers of the pass, for the centroids at its start: `inertia`, the mean over tokens of the squared
        distance to the nearest centroid; `utilisation`, the fraction of centroids with tokens; `largest` and `smallest`, the
        populations of clusters. Their histogram is that of `populations`.
        """
        if self.done < self.n_passes:
            n = int(self.clusters.counts.sum())
            if n == 0:
                raise ValueError("a pass of k-means ended without any token: the stream is empty; record more images.")
            inertia = float(self.clusters.inertia.sum()) / n
            gain, self.inertia = self.inertia / inertia - 1 if inertia else 0.0, inertia
            self.populations = self.clusters.counts.cpu()
            self.done += 1
            if gain < self.settings.tol and self.populations.all():
                self.n_passes = self.done
            self._move(self.settings.seed + self.done)
        return {
            "inertia": self.inertia,
            "utilisation": float((self.populations > 0).double().mean()),
            "largest": float(self.populations.max()),
            "smallest": float(self.populations.min()),
        }

    def merge(self, other: Fitter) -> None:
        """Add the clusters that `other` has collected in this pass."""
        assert isinstance(other, KMeansFitter)
        self.clusters.merge(other.clusters)

    def dictionaries(self) -> Mapping[str, KMeansDictionary]:
        """The centroids, each the mean of the tokens nearest to it in the last pass."""
        return {"": KMeansDictionary(self.normaliser, self.means, self.settings.code)}

    def _add(self, z: Float[Tensor, "batch d_model"]) -> None:
        for block in blocks(len(z), z.shape[1], z.device):
            rows = z[block].float()
            self.clusters.add(rows, *nearest(rows, self.centroids))

    def _move(self, seed: int) -> None:
        old = self.centroids
        self.means, self.centroids = (self.clusters.centroids(old, seed, beyond) for beyond in (0.0, BEYOND))
        self._begin_pass()

    def _begin_pass(self) -> None:
        self.clusters = Clusters.zeros(*self.centroids.shape, device=self.centroids.device)

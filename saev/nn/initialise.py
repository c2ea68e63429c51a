"""Initial parameters: atoms, and an encoder that is their transpose at the best scale for a sample of activations."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.weak import WeakTensorKeyDictionary

from saev.nn.archetypal import Archetypes
from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.centroids import kmeans
from saev.nn.decoding import decode
from saev.nn.median import geometric_median
from saev.nn.settings import CLUSTERED, SAMPLE, Archetypal, Centre, Free, Init

FREE = Free()
PAIRS = 2  # archetypal: further centroids in an initial atom
FRACTION = 0.2  # archetypal: their weight; 0.5 for atoms beyond the number of centroids
RESIDUAL = 0.2  # archetypal: norm of the initial residual, at most delta

_cache: Any = WeakTensorKeyDictionary()  # sample -> its median and centroids, which members of a bank share


@torch.no_grad()
def initialise(
    sae: SparseAutoencoder,
    sample: Float[Tensor, "n d_model"],
    method: Init,
    seed: int,
    b_dec: Centre = "median",
    decoder: Free | Archetypal = FREE,
) -> None:
    """Set all parameters of `sae` from a sample of normalised activations; a function of the sample and the settings.

    b_dec is the sample's geometric `median` or its `mean`. Atoms are
    - `random`: unit vectors of any direction;
    - `data`: directions of sample tokens from b_dec, blended with noise;
    - `tokens`: directions of sample tokens from b_dec, of different ones while there are enough;
    - `kmeans`: directions of the sample's centroids, one per atom;
    - `archetypal`: convex combinations of such directions, mostly of one, plus a small residual.
    With an Archetypal decoder the centroids of the last two also constrain its atoms.

    b_enc is 0 for sparsifiers that select a number of latents or have thresholds; for others each latent fires on a fraction
    of the sample (`Sparsifier.initialise_threshold`). w_enc = w_dec^T and b_enc are then scaled by the a that minimises the
    squared error: codes are homogeneous in a, so a = <z - b_dec, y> / <y, y> for the reconstruction y at a = 1.
    """
    decoder.check(method)
    centre = _centre(sample, b_dec)
    generator = torch.Generator().manual_seed(seed)
    sae.b_dec.copy_(centre)
    if method in CLUSTERED:
        archetypes = _archetypes(sample, centre, method, len(sae.w_dec), seed, decoder)
        sae.w_dec.copy_(archetypes.atoms())
        sae.archetypes = archetypes if isinstance(decoder, Archetypal) else None
    elif method == "tokens":
        rows = torch.randperm(len(sample), generator=generator)[torch.arange(sae.n_latents) % len(sample)]
        sae.w_dec.copy_(normalize(sample[rows.to(sample.device)] - centre, dim=1))
    else:
        noise = _unit_rows(sae.w_dec.shape, generator).to(sample)
        if method == "data":
            rows = torch.randint(len(sample), (len(noise),), generator=generator).to(sample.device)
            noise = normalize(0.8 * normalize(sample[rows] - centre, dim=1) + 0.2 * noise, dim=1)
        sae.w_dec.copy_(noise)
    _start_encoder(sae, sample[:4096])


def _cached(sample: Float[Tensor, "n d_model"], key: Any, compute: Callable[[], Tensor]) -> Tensor:
    values = _cache.setdefault(sample, {})
    if key not in values:
        values[key] = compute()
    return values[key]


def _centre(sample: Float[Tensor, "n d_model"], which: Centre) -> Float[Tensor, " d_model"]:
    if which == "mean":
        return sample[:SAMPLE].mean(0)
    return _cached(sample, which, lambda: geometric_median(sample[:SAMPLE]))


def _archetypes(
    sample: Float[Tensor, "n d_model"],
    centre: Float[Tensor, " d_model"],
    method: Init,
    d_sae: int,
    seed: int,
    decoder: Free | Archetypal,
) -> Archetypes:
    """Atom i is mostly the direction of centroid i, or i modulo their number."""
    n = decoder.points or d_sae
    points = normalize(_cached(sample, (n, seed), lambda: kmeans(sample, n, seed)) - centre, dim=1)
    generator = torch.Generator().manual_seed(seed)
    nearest = torch.arange(d_sae) % n
    mixing = torch.zeros(d_sae, n)
    mixing[torch.arange(d_sae), nearest] = 1
    residual = torch.zeros(d_sae, sample.shape[1])
    delta = decoder.delta if isinstance(decoder, Archetypal) else RESIDUAL
    if method == "archetypal":
        weights = torch.empty(d_sae, PAIRS).exponential_(generator=generator)
        fraction = torch.where(torch.arange(d_sae) < n, FRACTION, 0.5)[:, None]
        others = torch.randint(n, (d_sae, PAIRS), generator=generator)
        mixing = (1 - fraction) * mixing
        mixing.scatter_add_(1, others, fraction * weights / weights.sum(1, keepdim=True))
        residual = min(delta, RESIDUAL) * _unit_rows(residual.shape, generator)
    return Archetypes(points, mixing.to(sample), residual.to(sample), delta)


def _start_encoder(sae: SparseAutoencoder, z: Float[Tensor, "n d_model"]) -> None:
    sae.w_enc.copy_(sae.w_dec.T)
    sae.b_enc.zero_()
    bias = sae.sparsifier.initialise_threshold(sae.pre_activations(z))
    if bias is not None:
        sae.b_enc.copy_(bias)
    scale = _best_scale(sae, z)
    sae.w_enc.mul_(scale)
    sae.b_enc.mul_(scale)
    if bias is None:
        sae.sparsifier.initialise_threshold(sae.pre_activations(z))  # thresholds at this scale


def _best_scale(sae: SparseAutoencoder, z: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
    state = {name: buffer.clone() for name, buffer in sae.sparsifier.named_buffers()}
    y = decode(sae.training_codes(z).f, sae.w_dec)
    for name, buffer in sae.sparsifier.named_buffers():  # undo updates of the sparsifier: this is no training step
        buffer.copy_(state[name])
    energy = y.square().sum()  # 0 where no latent fires
    return torch.where(energy > 0, ((z - sae.b_dec) * y).sum() / energy.clamp_min(1e-12), 1)


def _unit_rows(shape: torch.Size, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    return normalize(torch.randn(shape, generator=generator), dim=1)

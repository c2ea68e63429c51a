"""Where training starts: atoms, and an encoder that is their transpose at the best scale for a sample of activations."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.decoding import decode

METHODS = ("random", "data")


@torch.no_grad()
def initialise(sae: SparseAutoencoder, sample: Float[Tensor, "n d_model"], method: str, seed: int) -> None:
    """Set all parameters of `sae` from a sample of normalised activations; a function of (sample, method, seed).

    Atoms are `random` unit vectors or `data`: directions of centred samples, blended with noise. b_dec is the sample's
    mean, b_enc is 0, and w_enc = a * w_dec^T with the scalar a that minimises the squared error of the reconstruction.
    Codes of relu, topk and batchtopk scale with a, so a = <z - b_dec, y> / <y, y> for the reconstruction y at a = 1.
    Without it a ReLU dictionary of 8 d_model atoms starts about four times too long.
    """
    generator = torch.Generator().manual_seed(seed)
    d_sae, d_model = sae.w_dec.shape
    noise = normalize(torch.randn(d_sae, d_model, generator=generator), dim=1).to(sample)
    mean = sample.mean(0)
    if method == "random":
        atoms = noise
    elif method == "data":
        rows = torch.randint(len(sample), (d_sae,), generator=generator).to(sample.device)
        atoms = 0.8 * normalize(sample[rows] - mean, dim=1) + 0.2 * noise
    else:
        raise ValueError(f"init={method}: choose one of {list(METHODS)}.")
    sae.w_dec.copy_(normalize(atoms, dim=1))
    sae.w_enc.copy_(sae.w_dec.T)
    sae.b_dec.copy_(mean)
    sae.b_enc.zero_()
    scale = _best_scale(sae, sample[:4096])
    sae.w_enc.mul_(scale)


def _best_scale(sae: SparseAutoencoder, z: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
    state = {name: buffer.clone() for name, buffer in sae.activation.named_buffers()}
    y = decode(sae.training_codes(z)[1], sae.w_dec)
    for name, buffer in sae.activation.named_buffers():  # looking at the sample is not a training step
        buffer.copy_(state[name])
    return ((z - sae.b_dec) * y).sum() / y.square().sum().clamp_min(1e-12)

"""Where training starts: atoms, and an encoder that is their transpose at the best scale for a sample of activations."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saev.nn.activations import Selecting
from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.decoding import decode

METHODS = ("random", "data")
# Share of tokens on which a ReLU latent fires at the start. From b_enc = 0 half of all fire on each token, and an L1
# penalty takes thousands of steps to undo that; from here 200 steps suffice (docs/log).
ACTIVE = 0.02


@torch.no_grad()
def initialise(sae: SparseAutoencoder, sample: Float[Tensor, "n d_model"], method: str, seed: int) -> None:
    """Set all parameters of `sae` from a sample of normalised activations; a function of (sample, method, seed).

    Atoms are `random` unit vectors or `data`: directions of centred samples, blended with noise. b_dec is the sample's
    mean. b_enc is 0 for activations that select a number of latents themselves; for the others it lets each latent
    fire on a share ACTIVE of the sample. Both halves of the encoder, w_enc = w_dec^T and b_enc, are then scaled by the
    a that minimises the squared error: codes are homogeneous in a, so a = <z - b_dec, y> / <y, y> for the
    reconstruction y at a = 1.
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
    few = sample[:4096]
    if not isinstance(sae.activation, Selecting):
        firing = max(1, round(ACTIVE * len(few)))
        sae.b_enc.copy_(-sae.pre_activations(few).topk(firing, dim=0).values[-1])
    scale = _best_scale(sae, few)
    sae.w_enc.mul_(scale)
    sae.b_enc.mul_(scale)


def _best_scale(sae: SparseAutoencoder, z: Float[Tensor, "n d_model"]) -> Float[Tensor, ""]:
    state = {name: buffer.clone() for name, buffer in sae.activation.named_buffers()}
    y = decode(sae.training_codes(z)[1], sae.w_dec)
    for name, buffer in sae.activation.named_buffers():  # looking at the sample is not a training step
        buffer.copy_(state[name])
    return ((z - sae.b_dec) * y).sum() / y.square().sum().clamp_min(1e-12)

"""Autoencoders of which a part stays as it was at the start of training (arXiv 2602.14111: "frozen" SAEs).

freeze    the parameters that do not change
decoder   atoms (of archetypal ones also mixing and residual)
encoder   encoder, b_enc, and the thresholds and gate of the sparsifier. Codes change through b_dec alone
soft      none; after each step atoms are turned back to a cosine of COSINE with their start
all       all, also b_dec: an untrained autoencoder

Estimates that are no parameters, such as the threshold of BatchTopK, are made in each case.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.settings import Freeze

COSINE = 0.8  # of each atom with its start, at least, where freeze=soft


def freeze_parameters(sae: SparseAutoencoder, freeze: Freeze) -> None:
    """Exclude the frozen parameters from training: no gradient is computed for them."""
    decoder = [sae.w_dec, *([] if sae.archetypes is None else sae.archetypes.parameters())]
    encoder = [sae.encoder, sae.b_enc, *sae.sparsifier.parameters()]
    frozen = {"decoder": decoder, "encoder": encoder, "all": list(sae.parameters())}
    for parameter in frozen.get(freeze, ()):
        parameter.requires_grad_(False)


@torch.no_grad()
def hold_near(
    atoms: Float[Tensor, "d_sae d_model"], start: Float[Tensor, "d_sae d_model"], cosine: float = COSINE
) -> None:
    """Turn each atom whose cosine with its `start` is smaller than `cosine` towards it, until it is equal; lengths stay.

    The nearest such direction, within the plane of both. An atom without a direction of its own, or opposite to its start, gets that
    of the start.
    """
    to, length = normalize(start.to(atoms), dim=1), atoms.norm(dim=1, keepdim=True)
    unit = atoms / length.clamp_min(1e-12)
    along = (unit * to).sum(1, keepdim=True)
    across = normalize(unit - along * to, dim=1)
    held = normalize(cosine * to + (1 - cosine**2) ** 0.5 * across, dim=1)
    atoms.copy_(torch.where(along < cosine, held * length, atoms))

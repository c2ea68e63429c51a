"""From the common form of other libraries' SAEs to ours: atoms of unit norm, b_dec subtracted before the encoder.

    z = (x - mean)/scale ;  h = (z - [centred] b_dec) @ w_enc + b_enc ;  f = rule(h) ;  z_hat = f @ w_dec + b_dec

Not centred:       b_enc <- b_enc + b_dec @ w_enc, so that (z - b_dec) @ w_enc + b_enc is unchanged.
Atoms of norm n:   w_dec <- w_dec / n, and w_enc, b_enc, thresholds and the gate's biases times n: codes are multiplied by n.
                   Top-k ranks latents by h, so this is done only where all norms are equal; else atoms keep their norms.
"""

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saev.nn import BatchTopK, Gated, JumpReLU, Normaliser, ReLU, SparseAutoencoder, SparsifierSettings, TopK

UNIT = 1e-5  # norms closer than this are equal up to rounding in float32


@dataclasses.dataclass(frozen=True)
class Affine:
    """Encoder and decoder in float64, in our layout, and whether the encoder subtracts b_dec."""

    w_enc: Float[Tensor, "d_model d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    w_dec: Float[Tensor, "d_sae d_model"]
    b_dec: Float[Tensor, " d_model"]
    centred: bool


@dataclasses.dataclass(frozen=True)
class Rectified:
    """f = max(h, 0)."""


@dataclasses.dataclass(frozen=True)
class Largest:
    """f = the k largest of max(h, 0) per token."""

    k: int


@dataclasses.dataclass(frozen=True)
class Above:
    """f = h [h > max(theta, 0)]; k is set where the threshold was learned by BatchTopK."""

    theta: Float[Tensor, " d_sae"]
    k: int | None = None


@dataclasses.dataclass(frozen=True)
class Gate:
    """f = [h + b_gate > 0] max(exp(r) h + b_mag, 0), where h has no bias."""

    r: Float[Tensor, " d_sae"]
    b_gate: Float[Tensor, " d_sae"]
    b_mag: Float[Tensor, " d_sae"]


Rule = Rectified | Largest | Above | Gate


class Rebuilt(NamedTuple):
    """Our autoencoder, the factor of its codes relative to the original's, and notes on what was folded."""

    sae: SparseAutoencoder
    code_scale: Float[Tensor, " d_sae"]
    notes: tuple[str, ...]


@torch.no_grad()
def rebuild(affine: Affine, rule: Rule, normaliser: Normaliser | None = None) -> Rebuilt:
    """The autoencoder that computes the same function; ValueError where k or a weight is invalid."""
    norms = affine.w_dec.norm(dim=1)
    scale, notes = fold_of(norms, rule)
    w_enc, w_dec = affine.w_enc * scale, affine.w_dec / scale[:, None]
    shift = torch.zeros_like(affine.b_enc) if affine.centred else affine.b_dec @ w_enc
    b_enc = affine.b_enc * scale + shift
    if not affine.centred:
        notes.append("the encoder does not subtract b_dec: b_enc + b_dec @ w_enc is stored as b_enc")
    settings, state = sparsifier_of(rule, scale, b_enc)
    d_model, d_sae = w_enc.shape
    sae = SparseAutoencoder(d_model, d_sae, settings, normaliser)
    for name, value in state.items():
        getattr(sae.sparsifier, name).copy_(value)
    if sae.sparsifier.gate_bias is not None:
        b_enc = torch.zeros_like(b_enc)
    for parameter, value in ((sae.w_enc, w_enc), (sae.b_enc, b_enc), (sae.w_dec, w_dec), (sae.b_dec, affine.b_dec)):
        parameter.copy_(value)
    return Rebuilt(sae.eval().requires_grad_(False), scale, tuple(notes))


def fold_of(norms: Float[Tensor, " d_sae"], rule: Rule) -> tuple[Float[Tensor, " d_sae"], list[str]]:
    """(the factor of each latent's codes that gives atoms unit norm, notes)."""
    one, mean = torch.ones_like(norms), norms.mean()
    if bool(((norms - 1).abs() <= UNIT).all()):
        return one, []
    spread = f"{norms.min().item():.4g} to {norms.max().item():.4g}"
    if isinstance(rule, Largest):
        if bool(((norms - mean).abs() <= UNIT * mean).all()) and mean > 0:
            return one * mean, [f"atoms of norm {mean.item():.6g} were given unit norm, codes grow by that factor"]
        return one, [f"atoms keep their norms ({spread}), as the k largest are selected without them"]
    # a latent with an atom of norm 0 still fires
    return torch.where(norms > 0, norms, 1), [f"atoms of norm {spread} were given unit norm, codes grow by the norms"]


def sparsifier_of(
    rule: Rule, scale: Float[Tensor, " d_sae"], b_enc: Float[Tensor, " d_sae"]
) -> tuple[SparsifierSettings, dict[str, Tensor]]:
    """(the sparsifier's settings for a rule, its thresholds and biases by name)."""
    match rule:
        case Rectified():
            return ReLU(0.0), {}
        case Largest(k):
            return TopK(k), {}
        case Above(theta, k):
            theta = theta.clamp_min(0) * scale
            equal = bool(((theta - theta.mean()).abs() <= UNIT * theta.mean()).all())
            if k is not None and equal:
                return BatchTopK(k), {"theta": theta.mean()}
            return JumpReLU(), {"theta": theta}
        case Gate(r, b_gate, b_mag):
            return Gated(0.0), {"r": r, "b_gate": b_gate * scale + b_enc, "b_mag": b_mag * scale + r.exp() * b_enc}

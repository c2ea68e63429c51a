"""A step by dense autograd in float64: what the kernels are compared with, by tests and at a run's start."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saev.ops.fused.adam_atoms import AdamState, Rates, Shadows
from saev.ops.fused.step import State

RATES = Rates(lr=3e-3, clip=1.0, beta1=0.9, beta2=0.999, eps=1e-8)
NAMES = ("atoms", "encoder", "b_enc", "b_dec")


class Expected(NamedTuple):
    """Mean squared errors and gradients."""

    loss: Float64[Tensor, ""]  # the mean over prefixes
    last: Float64[Tensor, ""]  # of the last prefix
    gradients: tuple[Tensor, ...]  # in the order of NAMES


def problem(d_model: int, d_sae: int, seed: int = 0) -> list[Float[Tensor, "..."]]:
    """Parameters in the order of NAMES; the latent 1 fires on every token, the latent 2 on none."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=generator), dim=1)
    b_enc = 0.1 * torch.randn(d_sae, generator=generator)
    b_enc[1], b_enc[2] = 50.0, -50.0
    return [atoms, 0.3 * atoms.roll(1, 0), b_enc, 0.1 * torch.randn(d_model, generator=generator)]


def state_of(weights: Sequence[Float[Tensor, "..."]]) -> State:
    """A copy of these parameters before the first step; every latent has last fired 7 tokens ago."""
    atoms, encoder, b_enc, b_dec = (AdamState(w.clone(), torch.zeros_like(w), torch.zeros_like(w)) for w in weights)
    shadows = Shadows(atoms.weight.bfloat16(), encoder.weight.bfloat16(), b_enc.weight.bfloat16())
    since = torch.full((len(weights[0]),), 7, device=weights[0].device)
    steps = [torch.zeros((), device=since.device) for _ in NAMES]
    return State(atoms, encoder, b_enc, b_dec, steps, shadows, since)


def dense(
    z: Float[Tensor, "rows d_model"],
    weights: Sequence[Float[Tensor, "..."]],
    codes: Float[Tensor, "rows d_sae"],
    ends: Sequence[int],
) -> Expected:
    """The step's losses and gradients where the latents that `codes` has are active, with their pre-activations as codes."""
    leaves = [w.detach().double().requires_grad_() for w in weights]
    atoms, encoder, b_enc, b_dec = leaves
    z = z.double()
    f = ((z - b_dec) @ encoder.T + b_enc).relu() * (codes != 0)
    losses = [(f[:, :end] @ atoms[:end] + b_dec - z).square().mean() for end in ends]
    loss = torch.stack(losses).mean()
    return Expected(loss.detach(), losses[-1].detach(), torch.autograd.grad(loss, leaves))


def torch_step(
    weights: Sequence[Float[Tensor, "..."]], gradients: Sequence[Float[Tensor, "..."]]
) -> tuple[Float[Tensor, ""], list[Float[Tensor, "..."]]]:
    """(the gradient's norm, parameters after the first step) by torch.optim.Adam, without what is along the atoms, clipped, normalised."""
    parameters = [torch.nn.Parameter(w.clone()) for w in weights]
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient.clone()
    along = (gradients[0] * weights[0]).sum(1, keepdim=True)
    parameters[0].grad = gradients[0] - along * weights[0]
    norm = torch.nn.utils.clip_grad_norm_(parameters, RATES.clip)
    torch.optim.Adam(parameters, RATES.lr, (RATES.beta1, RATES.beta2), RATES.eps).step()
    stepped = [p.detach() for p in parameters]
    stepped[0] /= stepped[0].norm(dim=1, keepdim=True)
    return norm, stepped


def error(actual: Float[Tensor, "..."], expected: Float[Tensor, "..."]) -> float:
    """The norm of the difference, relative to that of what is expected; NaN where there is one."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))

"""Small autoencoders, their steps by dense autograd in float64, and Triton's interpreter made to round as a GPU does."""

import numpy as np
import torch

from saev.ops.fused.adam_atoms import AdamState, Rates, Shadows
from saev.ops.fused.step import State

RATES = Rates(lr=3e-3, clip=1.0, beta1=0.9, beta2=0.999, eps=1e-8)
NAMES = ("atoms", "encoder", "b_enc", "b_dec")


def rounding(monkeypatch):
    """Between float32 and bfloat16 the interpreter truncates: round to nearest instead."""
    from triton.runtime import interpreter

    real = interpreter._convert_float

    def converted(data, source, target, mode):
        kinds = (str(source), str(target))
        if kinds == ("fp32", "bf16"):
            rounded = torch.from_numpy(np.ascontiguousarray(data).view(np.float32)).bfloat16()
            return rounded.view(torch.int16).numpy().view(np.uint16)
        if kinds == ("bf16", "fp32"):
            bits = torch.from_numpy(np.ascontiguousarray(data).view(np.int16))
            return bits.view(torch.bfloat16).float().numpy()
        return real(data, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", converted)


def parameters(d_model, d_sae, seed=0):
    """As at a run's start, except that some latents fire often and some never."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=generator), dim=1)
    b_enc = 0.1 * torch.randn(d_sae, generator=generator)
    b_enc[1], b_enc[2] = 50.0, -50.0
    return [atoms, 0.3 * atoms.roll(1, 0), b_enc, 0.1 * torch.randn(d_model, generator=generator)]


def state_of(weights):
    """A state at the first step."""
    states = [AdamState(w, torch.zeros_like(w), torch.zeros_like(w)) for w in (w.clone() for w in weights)]
    steps = [torch.zeros(()) for _ in states]
    shadows = Shadows(*(s.weight.bfloat16() for s in states[:3]))
    return State(*states, steps, shadows, torch.full((len(weights[0]),), 7))


def dense_gradients(z, weights, codes, ends):
    """(loss, last prefix's loss, gradients) in float64; latents that `codes` has are active, by relu of their pre-activation."""
    atoms, encoder, b_enc, b_dec = (w.double().requires_grad_() for w in weights)
    z = z.double()
    f = ((z - b_dec) @ encoder.T + b_enc).relu() * (codes != 0)
    losses = [(f[:, :end] @ atoms[:end] + b_dec - z).square().mean() for end in ends]
    loss = sum(losses) / len(ends)
    return loss, losses[-1], torch.autograd.grad(loss, [atoms, encoder, b_enc, b_dec])


def error(actual, expected):
    """Relative error of a tensor, by norms."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))

"""JumpReLU: a threshold per latent, learned through the jump by straight-through estimators."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.decoding import per_token
from saev.nn.sparsifiers.base import Codes, Sparsifier, firing_threshold
from saev.nn.sparsifiers.settings import JumpReLU
from saev.ops import collective
from saev.ops.sparse import SparseCodes, select_beyond


class JumpReLUSparsifier(Sparsifier[JumpReLU]):
    """See `JumpReLU`; theta is learned directly (not its logarithm), in float32, and kept at 0 or above.

    Its gradient is that of a rectangle kernel of width epsilon = bandwidth * scale around the threshold, `scale` being the
    standard deviation of the initial pre-activations: d f_j/d theta_j = -(theta_j/epsilon) [|h_j - theta_j| < epsilon/2], and
    for the number of active latents -(1/epsilon) [...] (equations 11 and 12 of the paper).

    The parameter `theta` is in units of pace * scale. Adam moves every parameter by about the learning rate per step: a
    threshold in units of h would lag behind pre-activations, which d_model weights move together (docs/log/
    2026-11-21-architectures.md). In a saved dictionary the unit is 1.
    """

    selects_codes = False
    scale: Float[Tensor, ""]
    unit: Float[Tensor, ""]

    def __init__(self, settings: JumpReLU, d_sae: int):
        super().__init__(settings, d_sae)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("unit", torch.ones(()))
        self.theta = nn.Parameter(torch.zeros(d_sae))

    @torch.no_grad()
    def initialise_threshold(self, h: Float[Tensor, "n d_sae"]) -> None:
        self.scale.copy_(h.std())
        self.unit.copy_(self.settings.pace * self.scale)
        self.theta.copy_(firing_threshold(h, self.settings.l0_target).clamp_min(0) / self.unit)

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """theta in units of h."""
        return self.theta * self.unit

    @torch.no_grad()
    def finalise(self) -> None:
        """Store theta in units of h."""
        self.theta.mul_(self.unit)
        self.unit.fill_(1)

    @property
    def epsilon(self) -> Float[Tensor, ""]:
        """The width of the kernel, in units of h."""
        return self.settings.bandwidth * self.scale

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return _Jump.apply(h, self.threshold, self.epsilon)  # type: ignore[return-value]

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        # also pre-activations under the kernel, which give the threshold its gradient; 0.501: differences are rounded
        return select_beyond(h, self.threshold - 0.501 * self.epsilon)

    def codes_of(self, pairs: SparseCodes) -> SparseCodes:
        theta = self.threshold.index_select(0, pairs.latents)
        return pairs._replace(values=_Jump.apply(pairs.values, theta, self.epsilon))

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        sparsity, l0_target, c = self.settings.sparsity, self.settings.l0_target, self.settings.tanh
        if c is not None:
            return sparsity * per_token(f, lambda values: (c * values).tanh())
        theta = self.threshold.index_select(0, at.latents) if isinstance(at, SparseCodes) else self.threshold
        l0 = per_token(at, lambda h: _Active.apply(h, theta, self.epsilon))
        return sparsity * l0 if l0_target is None else (collective.all_reduce_mean(l0) / l0_target - 1).square()

    @torch.no_grad()
    def project(self) -> None:
        self.theta.clamp_min_(0)


class _Jump(torch.autograd.Function):
    """h [h > theta]; the derivative by theta is averaged over the kernel."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, theta: Tensor, epsilon: Tensor) -> Tensor:
        ctx.save_for_backward(h, theta, epsilon)
        return torch.where(h > theta, h, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        h, theta, epsilon = ctx.saved_tensors
        by_theta = _per_threshold(theta, torch.where((h - theta).abs() < epsilon / 2, grad, 0))
        return torch.where(h > theta, grad, 0), -theta / epsilon * by_theta, None


class _Active(torch.autograd.Function):
    """[h > theta] as a number; the derivative by theta is averaged over the kernel, that by h is 0."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, theta: Tensor, epsilon: Tensor) -> Tensor:
        ctx.save_for_backward(h, theta, epsilon)
        return (h > theta).to(theta.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        h, theta, epsilon = ctx.saved_tensors
        by_theta = _per_threshold(theta, torch.where((h - theta).abs() < epsilon / 2, grad, 0))
        return None, -by_theta / epsilon, None


def _per_threshold(theta: Tensor, grad: Tensor) -> Tensor:
    """Gradient per threshold: column sums (dense), or one entry per pair (sparse)."""
    return grad.to(theta.dtype) if grad.dim() == theta.dim() else grad.sum(0, dtype=theta.dtype)

"""JumpReLU: a threshold per latent, learned through the jump by straight-through estimators (Rajamanoharan et al. 2024b)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.decoding import per_token
from saev.nn.penalised import check_target
from saev.nn.sparsifiers import Codes, Sparsifier, firing_threshold
from saev.ops import collective
from saev.ops.sparse import SparseCodes, select_beyond


class JumpReLU(Sparsifier):
    """f_j = h_j [h_j > theta_j], theta learned directly (not its logarithm), in float32, and kept at 0 or above.

    Its gradient is that of a rectangle kernel of width epsilon = bandwidth * scale about the threshold, `scale` being the
    spread of the initial pre-activations: d f_j/d theta_j = -(theta_j/epsilon) [|h_j - theta_j| < epsilon/2], and for the
    number of active latents -(1/epsilon) [...] (equations 11 and 12 of the paper).

    The parameter `theta` counts in units of pace * scale. Adam moves every parameter by about the learning rate a step: a
    threshold in units of h would creep behind pre-activations, which d_model weights move together (docs/log/
    2026-11-21-architectures.md). A saved dictionary has unit 1.

    Penalty, a mean over the batch: sparsity * L0; with `tanh` = c sparsity * sum_j tanh(c f_j) (Conerly et al. 2025); with
    `l0_target` instead ((L0 - l0_target)/l0_target)^2, L0 being that of the whole batch.
    """

    selects_codes = False
    theta: nn.Parameter
    scale: Float[Tensor, ""]
    unit: Float[Tensor, ""]

    def __init__(
        self,
        sparsity: float = 1e-3,
        l0_target: float | None = None,
        bandwidth: float = 0.5,
        tanh: float | None = None,
        pace: float = 64.0,
    ):
        super().__init__()
        check_target(l0_target)
        if sparsity is None or not sparsity >= 0:
            raise ValueError(f"sparsity={sparsity}: the coefficient is 0 or more, e.g. sparsity=1e-3.")
        for key, value in (("bandwidth", bandwidth), ("tanh", tanh), ("pace", pace)):
            if value is not None and not value > 0:
                raise ValueError(f"sae.{key}={value}: give a number above 0{', or null' if key == 'tanh' else ''}.")
        if tanh is not None and l0_target is not None:
            raise ValueError(f"sae.tanh={tanh} has no effect beside l0_target={l0_target}: drop one of them.")
        self.sparsity, self.l0_target, self.bandwidth, self.tanh = float(sparsity), l0_target, float(bandwidth), tanh
        self.pace = float(pace)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("unit", torch.ones(()))

    def prepare(self, d_sae: int) -> None:
        self.theta = nn.Parameter(torch.zeros(d_sae))

    @torch.no_grad()
    def start(self, h: Float[Tensor, "n d_sae"]) -> None:
        self.scale.copy_(h.std())
        self.unit.copy_(self.pace * self.scale)
        self.theta.copy_(firing_threshold(h, self.l0_target).clamp_min(0) / self.unit)

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """What pre-activations have to exceed."""
        return self.theta * self.unit

    @torch.no_grad()
    def bake(self) -> None:
        """Count thresholds in units of h."""
        self.theta.mul_(self.unit)
        self.unit.fill_(1)

    @property
    def epsilon(self) -> Float[Tensor, ""]:
        """The width of the kernel, in units of h."""
        return self.bandwidth * self.scale

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return _Jump.apply(h, self.threshold, self.epsilon)  # type: ignore[return-value]

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        # also what lies under the kernel, which the threshold learns from; a little more, as differences are rounded
        return select_beyond(h, self.threshold - 0.501 * self.epsilon)

    def of_pairs(self, at: SparseCodes) -> SparseCodes:
        theta = self.threshold.index_select(0, at.latents)
        return at._replace(values=_Jump.apply(at.values, theta, self.epsilon))

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        if self.tanh is not None:
            steepness = self.tanh
            return self.sparsity * per_token(f, lambda values: (steepness * values).tanh())
        theta = self.threshold.index_select(0, at.latents) if isinstance(at, SparseCodes) else self.threshold
        l0 = per_token(at, lambda h: _Active.apply(h, theta, self.epsilon))
        if self.l0_target is None:
            return self.sparsity * l0
        return (collective.all_reduce_mean(l0) / self.l0_target - 1).square()

    @torch.no_grad()
    def project(self) -> None:
        self.theta.clamp_min_(0)


class _Jump(torch.autograd.Function):
    """h [h > theta]; the derivative by theta is smeared over the kernel."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, theta: Tensor, epsilon: Tensor) -> Tensor:
        ctx.save_for_backward(h, theta, epsilon)
        return torch.where(h > theta, h, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        h, theta, epsilon = ctx.saved_tensors
        by_theta = _for_each(theta, torch.where((h - theta).abs() < epsilon / 2, grad, 0))
        return torch.where(h > theta, grad, 0), -theta / epsilon * by_theta, None


class _Active(torch.autograd.Function):
    """[h > theta] as a number; the derivative by theta is smeared over the kernel, that by h is 0."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, theta: Tensor, epsilon: Tensor) -> Tensor:
        ctx.save_for_backward(h, theta, epsilon)
        return (h > theta).to(theta.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        h, theta, epsilon = ctx.saved_tensors
        by_theta = _for_each(theta, torch.where((h - theta).abs() < epsilon / 2, grad, 0))
        return None, -by_theta / epsilon, None


def _for_each(theta: Tensor, grad: Tensor) -> Tensor:
    """What falls to each threshold: of a matrix the sum of its column, of pairs, which have one each, their own."""
    return grad.to(theta.dtype) if grad.dim() == theta.dim() else grad.sum(0, dtype=theta.dtype)

"""Muon for weight matrices and Adam for all other parameters, as one optimiser with a parameter group per SAE.

Not torch.optim.Muon and torch.optim.Adam: two optimisers would count every step twice, and torch's iteration is in bfloat16
everywhere, which on a CPU without such instructions takes 16 times as long as float32 (docs/log).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the steepest start at 0 among those that end near 1


class Muon(Optimizer):
    """Momentum, orthogonalised, for each matrix (Jordan et al. 2024); Adam for vectors and the parameters of archetypal atoms.

    A matrix moves by lr * 0.2 sqrt(max(rows, columns)) * orthogonalise(g + momentum (m - g)), m being the running mean of the
    gradients g. Its entries then move by about 0.2 lr, as under Adam (Liu et al. 2025, "Muon is scalable", section 2.2), so
    `lr` is that of Adam and each group has its own. There is no weight decay: atoms have unit norm.
    """

    def __init__(
        self,
        params: Iterable[Mapping[str, Any]],
        lr: float = 3e-4,
        momentum: float = 0.95,
        iterations: int = 5,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"optimiser.momentum={momentum}: must be at least 0 and below 1, e.g. 0.95.")
        if iterations < 1:
            raise ValueError(f"optimiser.iterations={iterations}: must be at least 1, e.g. 5.")
        beta, beta_square = (float(value) for value in betas)
        defaults = {"lr": lr, "momentum": momentum, "iterations": iterations, "eps": eps, "steps": 0}
        defaults["betas"] = (beta, beta_square)
        super().__init__(params, defaults)  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["steps"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    take = _muon if is_matrix(parameter) else _adam
                    take(parameter, parameter.grad, self.state[parameter], group)
        return loss


def is_matrix(parameter: Tensor) -> bool:
    """Whether the parameter is the matrix of a linear map (not a table of independent rows)."""
    return parameter.ndim == 2 and not getattr(parameter, "per_entry", False)


def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        state["mean"] = torch.zeros_like(parameter)
    state["mean"].lerp_(gradient, 1 - group["momentum"])
    update = orthogonalise(gradient.lerp(state["mean"], group["momentum"]), group["iterations"])
    parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    (beta, beta_square), n = group["betas"], group["steps"]
    state["mean"].lerp_(gradient, 1 - beta)
    state["square"].mul_(beta_square).addcmul_(gradient, gradient, value=1 - beta_square)
    spread = (state["square"] / (1 - beta_square**n)).sqrt_().add_(group["eps"])
    parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - beta**n))


def orthogonalise(g: Float[Tensor, "rows columns"], iterations: int = 5) -> Float[Tensor, "rows columns"]:
    """About U V^T of g = U S V^T: every singular value becomes one between 0.7 and 1.2, by quintic Newton-Schulz steps.

    X <- a X + (b X X^T + c (X X^T)^2) X from X = g/||g||. In bfloat16 on a GPU, in float32 elsewhere.
    """
    a, b, c = QUINTIC
    wide = g.shape[0] <= g.shape[1]
    with torch.autocast(g.device.type, enabled=False):
        x = g if wide else g.T
        x = x / x.norm().clamp_min(1e-7)
        x = x.bfloat16() if g.is_cuda else x
        for _ in range(iterations):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(g)

"""Initial values of the fits: a two-point solution in closed form, or the ridge's for a class on whose tokens the latent never
fires."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor


def two_points(
    u: Float64[Tensor, "l nodes"], prevalence: Float64[Tensor, "l classes"], covariance: Float64[Tensor, "l classes"]
) -> tuple[Float64[Tensor, "l classes"], Float64[Tensor, "l classes"]]:
    """(level, slope) of the exact fit to a standardised code of two values: its smallest (usually that of the zeros) and the one
    that then gives mean 0 and variance 1. The logits are those of the least-squares line at these values.
    """
    low = u[:, :1]
    high = -1 / low
    least = 1e-3 * prevalence * (1 - prevalence)
    at_low, at_high = ((prevalence + covariance * x).clamp(least, 1 - least).logit() for x in (low, high))
    slope = (at_high - at_low) / (high - low)
    return at_low - slope * low, slope


def lowest_only(
    u: Float64[Tensor, "l nodes"],
    weights: Float64[Tensor, "l nodes"],
    prevalence: Float64[Tensor, "l classes"],
    lowest: Bool[Tensor, "l classes"],
    ridge: float,
) -> tuple[Float64[Tensor, "l classes"], Float64[Tensor, "l classes"]]:
    """(level, slope) where all positives have the smallest code (usually: the latent is silent on all of them).

    The prevalence among these tokens determines the logit there. If the other nodes up to distance d were all at d, the ridge
    would give v = -slope d with v exp(v) = d sum(weight distance) odds / ridge; as they are nearer, the slope is at least the
    steepest of these.
    """
    apart = u[:, 1:] - u[:, :1]
    logit = (prevalence / weights[:, :1]).clamp(max=1 - 1e-3).logit()
    force = apart * (weights[:, 1:] * apart).cumsum(1) / max(ridge, 1e-12)
    typical = torch.where(lowest, logit, 0).sum(1, keepdim=True) / lowest.sum(1, keepdim=True).clamp(min=1)
    nearest = (_lambert(force * typical.exp()) / apart.clamp(min=1e-12)).argmax(1, keepdim=True)
    slope = -_lambert(force.gather(1, nearest) * logit.exp()) / apart.gather(1, nearest).clamp(min=1e-12)
    return logit - slope * u[:, :1], slope


def _lambert(z: Tensor) -> Tensor:
    """v with v exp(v) = z >= 0, to about 1 %."""
    log = z.log1p()
    return log * (1 - log.log1p() / (2 + log))

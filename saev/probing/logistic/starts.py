"""Where the fit of a pair begins: two points in closed form, or what the ridge leaves of a class that is silence alone."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor


def two_points(
    u: Float64[Tensor, "l nodes"], share: Float64[Tensor, "l classes"], covariance: Float64[Tensor, "l classes"]
) -> tuple[Float64[Tensor, "l classes"], Float64[Tensor, "l classes"]]:
    """(level, slope) of the exact fit if the standardised code had two values only, the smallest it has (as a rule that of
    the zeros) and the one which mean 0 and variance 1 then ask for: through the logits of the least squares line there.
    """
    low = u[:, :1]
    high = -1 / low
    least = 1e-3 * share * (1 - share)
    at_low, at_high = ((share + covariance * x).clamp(least, 1 - least).logit() for x in (low, high))
    slope = (at_high - at_low) / (high - low)
    return at_low - slope * low, slope


def lowest_only(
    u: Float64[Tensor, "l nodes"],
    weights: Float64[Tensor, "l nodes"],
    share: Float64[Tensor, "l classes"],
    lowest: Bool[Tensor, "l classes"],
    ridge: float,
) -> tuple[Float64[Tensor, "l classes"], Float64[Tensor, "l classes"]]:
    """(level, slope) where all positives have the smallest code (as a rule they are where the latent is silent).

    The prevalence there fixes the logit there. If the other nodes up to distance d were all at d, the ridge would hold
    v = -slope d to v exp(v) = d sum(weight distance) odds / ridge; as they are nearer, the slope is at least the steepest
    of these.
    """
    apart = u[:, 1:] - u[:, :1]
    logit = (share / weights[:, :1]).clamp(max=1 - 1e-3).logit()
    force = apart * (weights[:, 1:] * apart).cumsum(1) / max(ridge, 1e-12)
    typical = torch.where(lowest, logit, 0).sum(1, keepdim=True) / lowest.sum(1, keepdim=True).clamp(min=1)
    nearest = (_lambert(force * typical.exp()) / apart.clamp(min=1e-12)).argmax(1, keepdim=True)
    slope = -_lambert(force.gather(1, nearest) * logit.exp()) / apart.gather(1, nearest).clamp(min=1e-12)
    return logit - slope * u[:, :1], slope


def _lambert(z: Tensor) -> Tensor:
    """v with v exp(v) = z >= 0, to about one in a hundred."""
    log = z.log1p()
    return log * (1 - log.log1p() / (2 + log))

"""Newton's method for many logistic regressions on one variable, vectorised; pairs converge independently.

The classes of a latent share its nodes. Steps are accepted by gradients, without losses: the loss is convex, so a step was too
long where the directional derivative at its end is positive, and the derivatives at both ends bracket the minimum. Initial values
are a two-point solution in closed form, or the ridge's for a class on whose tokens the latent never fires.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saev.probing.logistic.nodes import Nodes

Codes = Float64[Tensor, "l nodes"]
PerClass = Float64[Tensor, "l classes"]
SIZE = 1 << 20  # latents * classes * nodes at a time


class Block(NamedTuple):
    """Some latents, the same number of classes for each, and the latents' `Nodes.padded`."""

    at: tuple[Int64[Tensor, "l 1"], Int64[Tensor, "l k"]]
    """The index of the block in a matrix [latents, classes]: `matrix[at]` is [l, k]."""
    values: Codes
    weights: Codes
    hidden: Codes

    @property
    def latents(self) -> Int64[Tensor, " l"]:
        return self.at[0].squeeze(1)


def blocks(nodes: Nodes, mask: Bool[Tensor, "latents classes"]) -> Iterator[Block]:
    """All pairs of the mask, each once; shorter rows are filled up with pairs outside the mask."""
    count, lengths = mask.sum(1), nodes.lengths
    order = lengths.argsort()
    order = order[count[order] > 0]
    while len(order):
        nth = torch.arange(1, len(order) + 1, device=order.device)
        size = nth * count[order].cummax(0).values * lengths[order]  # of a block that ends with this latent
        n = max(1, int(torch.searchsorted(size, SIZE, right=True)))
        latents, order = order[:n], order[n:]
        _, columns = pack_rows(mask[latents])
        yield Block((latents[:, None], columns), *nodes.padded(latents))


def pack_rows(mask: Bool[Tensor, "l classes"]) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, "rows k"]]:
    """The rows with a true element, and k columns of each, the true ones first; k is the largest number of true ones.

    >>> rows, columns = pack_rows(torch.tensor([[False, True, False], [False, False, False], [True, False, True]]))
    >>> rows.tolist(), columns.tolist()
    ([0, 2], [[1, 0], [0, 2]])
    """
    count = mask.sum(1)
    rows = count.nonzero().squeeze(1)
    columns = (~mask[rows]).byte().argsort(dim=1, stable=True)
    return rows, columns[:, : int(count.max())]


def two_points(u: Codes, prevalence: PerClass, covariance: PerClass) -> tuple[PerClass, PerClass]:
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
    u: Codes, weights: Codes, prevalence: PerClass, lowest: Bool[Tensor, "l classes"], ridge: float
) -> tuple[PerClass, PerClass]:
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


class Minimum(NamedTuple):
    """Per pair: the logit at the latent's mean, its increase per standard deviation, a bound on the loss that remains to be gained,
    and the number of evaluations."""

    level: PerClass
    slope: PerClass
    remaining: PerClass
    steps: Int64[Tensor, "l classes"]


def minimise(
    u: Codes, weights: Codes, prevalence: PerClass, covariance: PerClass, start: tuple[PerClass, PerClass], prior: PerClass,
    active: Bool[Tensor, "l classes"], ridge: float, tolerance: float, max_steps: int,
) -> Minimum:  # fmt: skip
    """Minimise `sum_j weights_j softplus(level + slope u_j) - level prevalence - slope covariance + ridge / 2 slope^2` per pair.

    `u` are standardised codes in ascending order, the weights of a latent sum to 1, `prevalence` is the mean of y and
    `covariance` that of y u. A pair converges when its loss can fall by no more than `tolerance` times `prior`, the loss without
    the code. Pairs that are not `active` keep their start.
    """
    powers = torch.stack([weights, weights * u, weights * u.square()], 1)
    nothing = torch.zeros_like(prevalence)
    result = torch.stack([*start, nothing, nothing]).view(4, -1)
    index = torch.arange(prevalence.numel(), device=u.device).view_as(prevalence)
    # Per pair: the position, the step being tried, the rate at which the loss falls at its start, and constants.
    state = torch.stack([*start, nothing, nothing, nothing, prevalence, covariance, prior])
    alive = active
    for step in range(max_steps + 1):
        if alive.float().mean() < 0.8:
            rows, columns = pack_rows(alive)
            if not len(rows):
                break
            u, powers, index = u[rows], powers[rows], index[rows].gather(1, columns)
            state = state[:, rows].gather(2, columns.expand(len(state), -1, -1))
            alive = alive[rows].gather(1, columns)
        a, c, da, dc, fall, pi, rho, most = state
        to_a, to_c = a + da, c + dc
        (ga, gc), (haa, hac, hcc) = _derivatives(u, powers, to_a, to_c)
        ga, gc = ga - pi, gc - rho + ridge * to_c
        haa, hcc = haa + 1e-15, hcc + ridge  # where all nodes are saturated, the gradient is rounding of this size
        end = ga * da + gc * dc
        taken = end <= fall / 2
        # Where one node has nearly all of the curvature, the difference below is rounding: the floor keeps the step finite.
        schur = torch.maximum(hcc - hac.square() / haa, 1e-13 * hcc)
        new_c = -(gc - ga * hac / haa) / schur
        new_a = -(ga + hac * new_c) / haa
        decrement = -(ga * new_a + gc * new_c)
        # No step can gain more than the whole loss: a longer one is scaled down. Beyond a minimum, linear interpolation of the
        # derivatives crosses 0 before the end of the step.
        scale = torch.where(taken, (2 * most / decrement).clamp(0, 1), (fall / (fall + end)).clamp(0.1, 0.5))
        # Curvature changes by a factor of exp(far) at most over a step that moves no logit by more than `far`, so that
        # the next step could gain no more than (exp(far) - 1)^2 of what this one does.
        far = torch.maximum((new_a + new_c * u[:, :1]).abs(), (new_a + new_c * u[:, -1:]).abs())
        left = decrement / 2 * far.expm1().square().clamp(max=1)
        a, c = torch.where(taken, to_a, a), torch.where(taken, to_c, c)
        da, dc = torch.where(taken, new_a, da) * scale, torch.where(taken, new_c, dc) * scale
        fall = torch.where(taken, decrement, fall) * scale
        done = alive & taken & (left <= tolerance * most)
        ended = (done if step < max_steps else alive).view(-1).nonzero().squeeze(1)
        left = torch.where(taken, left, torch.inf)
        reached = torch.stack([a + da * done, c + dc * done, left, torch.full_like(a, step + 1)])
        result[:, index.view(-1)[ended]] = reached.view(4, -1)[:, ended]
        alive = alive & ~done
        state = torch.stack([a, c, da, dc, fall, pi, rho, most])
    level, slope, remaining, steps = result.view(4, *prevalence.shape)
    return Minimum(level, slope, remaining, steps.long())


def _derivatives(
    u: Codes, powers: Float64[Tensor, "l 3 nodes"], level: PerClass, slope: PerClass
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weighted sums over nodes of s (1, u) and of s (1 - s) (1, u, u^2), with s = sigmoid(level + slope u)."""
    # Classes last: products with few rows are several times as fast as those with few columns.
    s = torch.addcmul(level[:, None], slope[:, None], u[:, :, None]).sigmoid_()
    first = torch.bmm(powers[:, :2], s)
    second = torch.bmm(powers, s.addcmul_(s, s, value=-1))
    return first.unbind(1), second.unbind(1)

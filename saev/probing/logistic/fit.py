"""y ~ sigmoid(b + w x) for all pairs of a latent's code x and a class y, from the counts of a `LabelTable`.

    N loss(b, w) = sum over tokens softplus(b + w x) - b positives - w P1 + N ridge / 2 Var(w x)

Labels enter through (positives, P1) alone, and the first sum is over one distribution per latent that all classes share.
The ridge acts on the standardised code, so a fit does not depend on the scale or offset of x; it keeps separable pairs finite.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int8, Int64, Real
from torch import Tensor
from torch.nn.functional import softplus

from saev.probing.logistic.newton import Block, Codes, PerClass, blocks, lowest_only, minimise, two_points
from saev.probing.logistic.nodes import Nodes, coarsened

Pairs = Float64[Tensor, "latents classes"]
Positives = Real[Tensor, "#latents classes"] | Real[Tensor, " classes"]
RIDGE = 1e-8
COARSE_STEPS = 8  # first steps on coarse nodes; pairs that need more are batched again


class Status(enum.IntEnum):
    """How the fit of a pair ended."""

    CONVERGED = 0
    SEPARABLE = 1  # a threshold on the code separates the class from the rest, except for ties or within a bin
    CONSTANT = 2  # the code has one value, or all or no tokens are of the class: w = 0, b = logit of the prevalence
    STOPPED = 3  # out of steps: not a minimum


@dataclass(frozen=True)
class LogisticFit:
    """`loss` is the mean cross-entropy in nats per token, without the ridge; `steps` counts evaluations on all nodes."""

    b: Pairs
    w: Pairs
    loss: Pairs
    steps: Int64[Tensor, "latents classes"]
    status: Int8[Tensor, "latents classes"]


def solve(
    nodes: Nodes,
    positives: Positives,
    p1: Pairs,
    ridge: float = RIDGE,
    start: tuple[Pairs, Pairs] | None = None,
    tolerance: float = 1e-12,
    max_steps: int = 100,
    advance: Callable[[int], object] = lambda n: None,
) -> LogisticFit:
    """Fit all pairs; for one class per latent (the exact fit of the best latents) `positives` and `p1` have one column.

    Without `start` (b, w), pairs are first fitted to a few coarse nodes, from where one step on all nodes is enough for most.
    Classes whose tokens all have the smallest code (usually: the latent never fires on them; half of all pairs) keep the coarse
    fit: only the ridge gives them a minimum, and the coarse nodes contain the few nodes that it depends on. A pair is CONVERGED
    when its loss can fall by at most `tolerance` of itself. `advance` is called with the number of pairs that have finished.
    ValueError for a count of positives beyond the tokens.
    """
    n = nodes.n_tokens
    if positives.numel() and not 0 <= int(positives.min()) <= int(positives.max()) <= n:
        raise ValueError(f"positives up to {int(positives.max())} of n_tokens={n}: count both over the same tokens.")
    mean, std = (x[:, None] for x in nodes.moments())
    prevalence = (positives.double() / n).expand_as(p1)
    scale = torch.where(std > 0, std, 1)
    constant = (std == 0) | (prevalence == 0) | (prevalence == 1)
    covariance = (p1 / n - mean * prevalence) / scale
    rounding = 1e-12 * (1 + mean.abs() / scale) * prevalence.sqrt()  # error of the covariance
    prior = prevalence_entropy(positives, n).expand_as(p1)
    level, slope = torch.logit(prevalence), torch.zeros_like(p1)
    loss, steps = prior.clone(), torch.zeros_like(p1, dtype=torch.int64)
    remaining, separable = torch.zeros_like(p1), torch.zeros_like(p1, dtype=torch.bool)
    pending = ~constant
    advance(int(constant.sum()))

    def standardised(block: Block) -> tuple[Tensor, Tensor, Tensor]:
        centre, std = mean[block.latents], scale[block.latents]
        return (block.values - centre) / std, block.weights / n, block.hidden / std / n

    if start is not None:
        level = torch.where(constant, level, start[0] + start[1] * mean)
        slope = torch.where(constant, slope, start[1] * scale)
    coarse, unfinished = coarsened(nodes), pending.clone()
    for most in (COARSE_STEPS, max_steps) if start is None else ():
        for block in blocks(coarse, unfinished):
            at, (u, weights, _) = block.at, standardised(block)
            means, active = (prevalence[at], covariance[at]), unfinished[at]
            lowest = active & (means[1] <= u[:, :1] * means[0] + rounding[at])
            if most == COARSE_STEPS:
                initial, steep = two_points(u, *means), lowest_only(u, weights, means[0], lowest, ridge)
                initial = [torch.where(lowest, x, y) for x, y in zip(steep, initial, strict=True)]
                level[at], slope[at] = (
                    torch.where(active, x, y[at]) for x, y in zip(initial, (level, slope), strict=True)
                )
            # Where no fit to the coarse nodes can reach the covariance, only the ridge would bound it.
            active = active & (lowest | ~_separable(u, weights, torch.zeros_like(u), *means, rounding[at]))
            level[at], slope[at], left, _ = minimise(
                u, weights, *means, (level[at], slope[at]), prior[at], active, ridge, 1e-9, min(most, max_steps)
            )
            unfinished[at] = active & (left > 1e-9 * prior[at])
            lowest = lowest & ~unfinished[at]
            loss[at] = torch.where(lowest, _cross_entropy(u, weights, *means, level[at], slope[at]), loss[at])
            separable[at] |= lowest
            pending[at] &= ~lowest
            advance(int(lowest.sum()))
    for block in blocks(nodes, pending):
        at, (u, weights, hidden) = block.at, standardised(block)
        means, active = (prevalence[at], covariance[at]), pending[at]
        level[at], slope[at], left, taken = minimise(
            u, weights, *means, (level[at], slope[at]), prior[at], active, ridge, tolerance / 100, max_steps
        )
        loss[at] = torch.where(active, _cross_entropy(u, weights, *means, level[at], slope[at]), loss[at])
        remaining[at], steps[at] = torch.where(active, left, remaining[at]), torch.where(active, taken, steps[at])
        separable[at] |= active & _separable(u, weights, hidden, *means, rounding[at])
        advance(int(active.sum()))
    status = torch.where(remaining <= tolerance * loss, Status.CONVERGED, Status.STOPPED).to(torch.int8)
    status[separable & loss.isfinite()] = Status.SEPARABLE
    status[constant] = Status.CONSTANT
    w = slope / scale
    return LogisticFit(level - w * mean, w, loss, steps, status)


def cross_entropy(nodes: Nodes, positives: Positives, p1: Pairs, b: Pairs, w: Pairs) -> Pairs:
    """Mean cross-entropy (nats per token) of given fits on the tokens of `nodes`, usually those of another split.

    An infinite b (fitted to no or only positives) has a loss of 0 where it is right, else inf.
    """
    prevalence = (positives.double() / nodes.n_tokens).expand_as(p1)
    finite = torch.where(b.isfinite(), b, 0)
    loss = torch.empty_like(p1)
    for block in blocks(nodes, torch.ones_like(p1, dtype=torch.bool)):
        at, weights = block.at, block.weights / nodes.n_tokens
        loss[at] = _cross_entropy(block.values, weights, prevalence[at], p1[at] / nodes.n_tokens, finite[at], w[at])
    right = torch.where(b > 0, prevalence == 1, prevalence == 0)
    return torch.where(b.isfinite(), loss, torch.where(right, 0.0, torch.inf))


def prevalence_entropy(positives: Real[Tensor, "*classes"], n_tokens: int) -> Float64[Tensor, "*classes"]:
    """Cross-entropy (nats per token) of predicting the prevalence everywhere.

    >>> prevalence_entropy(torch.tensor([0, 2]), 4)
    tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    prevalence = positives.double() / n_tokens
    return torch.special.entr(prevalence) - torch.special.xlog1py(1 - prevalence, -prevalence)


def _cross_entropy(
    u: Codes, weights: Codes, prevalence: PerClass, mean: PerClass, level: PerClass, slope: PerClass
) -> PerClass:
    # Beyond 40, softplus(t) equals t in float64.
    losses = softplus(torch.addcmul(level[:, None], slope[:, None], u[:, :, None]), threshold=40)
    return torch.bmm(weights[:, None], losses).squeeze(1) - level * prevalence - slope * mean


def _separable(
    u: Codes, weights: Codes, hidden: Codes, prevalence: PerClass, covariance: PerClass, rounding: PerClass
) -> Bool[Tensor, "l classes"]:
    """Whether the positives have the smallest or the largest codes: the mean of y u is then at its lower or upper bound."""
    cumulated = torch.nn.functional.pad(weights.cumsum(1), (1, 0))
    summed = torch.nn.functional.pad((weights * u).cumsum(1), (1, 0))

    def smallest_sum(part: Tensor) -> Tensor:
        """An upper bound of the smallest sum of u over such a fraction of the tokens."""
        at = (torch.searchsorted(cumulated, part.contiguous(), right=True) - 1).clamp(max=u.shape[1] - 1)
        rest = part - cumulated.gather(1, at)
        return summed.gather(1, at) + rest * u.gather(1, at) + hidden.gather(1, at) * (rest > 1e-12)

    return (covariance <= smallest_sum(prevalence) + rounding) | (
        covariance >= -smallest_sum(1 - prevalence) - rounding
    )

"""y ~ sigmoid(b + w x) for all pairs of a latent's code x and a class y, from what a `LabelTable` keeps.

    N loss(b, w) = sum over tokens softplus(b + w x) - b positives - w P1 + N ridge / 2 Var(w x)

Labels enter through (positives, P1) alone, and the first sum is over one distribution per latent that all classes share.
The ridge is on the standardised code: neither scaling nor shifting x changes a fit. It is there to keep separable pairs
finite.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int8, Int64, Real
from torch import Tensor
from torch.nn.functional import softplus

from saev.probing.logistic.blocks import Block, blocks
from saev.probing.logistic.newton import minimise
from saev.probing.logistic.nodes import Nodes, coarsened
from saev.probing.logistic.starts import lowest_only, two_points

RIDGE = 1e-8
SKETCHING = 8  # steps on the sketch at first; what takes longer is put together in blocks of its own


class Status(enum.IntEnum):
    """How the fit of a pair ended."""

    CONVERGED = 0
    SEPARABLE = 1  # a threshold on the code tells the class from the rest, ties apart, or may do so inside a bin
    CONSTANT = 2  # the code has one value, or the class all tokens or none: w = 0, b = logit of the prevalence
    STOPPED = 3  # out of steps: not a minimum


@dataclass(frozen=True)
class LogisticFit:
    """`loss` is the mean cross-entropy in nats per token, without the ridge; `steps` counts evaluations on all nodes."""

    b: Float64[Tensor, "latents classes"]
    w: Float64[Tensor, "latents classes"]
    loss: Float64[Tensor, "latents classes"]
    steps: Int64[Tensor, "latents classes"]
    status: Int8[Tensor, "latents classes"]


def solve(
    nodes: Nodes,
    positives: Real[Tensor, "#latents classes"] | Real[Tensor, " classes"],
    p1: Float64[Tensor, "latents classes"],
    ridge: float = RIDGE,
    start: tuple[Float64[Tensor, "latents classes"], Float64[Tensor, "latents classes"]] | None = None,
    tolerance: float = 1e-12,
    max_steps: int = 100,
    advance: Callable[[int], object] = lambda n: None,
) -> LogisticFit:
    """Fit all pairs; for one class per latent (the exact polish of winners) `positives` and `p1` have one column.

    `start` is a (b, w) from elsewhere. Without it the pairs are first fitted to a sketch of a few nodes, from where one
    step on all nodes is enough for most. Classes that are only where the code is smallest (as a rule: that occur nowhere
    the latent fires, half of all pairs) stay at the sketch's fit: there is no minimum but the ridge's, and the sketch has
    the few nodes that it depends on. A pair is CONVERGED when what is left to gain is bounded by `tolerance` of its loss.
    `advance` is told of how many more pairs are done. ValueError for a count of positives beyond the tokens.
    """
    n = nodes.n_tokens
    if positives.numel() and not 0 <= int(positives.min()) <= int(positives.max()) <= n:
        raise ValueError(f"positives up to {int(positives.max())} of n_tokens={n}: count both over the same tokens.")
    mean, std = (x[:, None] for x in nodes.moments())
    share = (positives.double() / n).expand_as(p1)
    scale = torch.where(std > 0, std, 1)
    constant = (std == 0) | (share == 0) | (share == 1)
    covariance = (p1 / n - mean * share) / scale
    doubt = 1e-12 * (1 + mean.abs() / scale) * share.sqrt()  # of the covariance: rounding
    prior = prevalence_entropy(positives, n).expand_as(p1)
    level, slope = torch.logit(share), torch.zeros_like(p1)
    loss, steps = prior.clone(), torch.zeros_like(p1, dtype=torch.int64)
    remaining, separable = torch.zeros_like(p1), torch.zeros_like(p1, dtype=torch.bool)
    pending = ~constant
    advance(int(constant.sum()))

    def standardised(block: Block) -> tuple[Tensor, Tensor, Tensor]:
        middle, by = mean[block.latents], scale[block.latents]
        return (block.values - middle) / by, block.weights / n, block.hidden / by / n

    if start is not None:
        level = torch.where(constant, level, start[0] + start[1] * mean)
        slope = torch.where(constant, slope, start[1] * scale)
    sketch, unfinished = coarsened(nodes), pending.clone()
    for most in (SKETCHING, max_steps) if start is None else ():
        for block in blocks(sketch, unfinished):
            at, (u, weights, _) = block.at, standardised(block)
            facts, wanted = (share[at], covariance[at]), unfinished[at]
            lowest = wanted & (facts[1] <= u[:, :1] * facts[0] + doubt[at])
            if most == SKETCHING:
                begun, steep = two_points(u, *facts), lowest_only(u, weights, facts[0], lowest, ridge)
                begun = [torch.where(lowest, x, y) for x, y in zip(steep, begun, strict=True)]
                level[at], slope[at] = (
                    torch.where(wanted, x, y[at]) for x, y in zip(begun, (level, slope), strict=True)
                )
            # Where no fit to the sketch can reach the covariance, only the ridge would stop it.
            wanted = wanted & (lowest | ~_separable(u, weights, torch.zeros_like(u), *facts, doubt[at]))
            level[at], slope[at], left, _ = minimise(
                u, weights, *facts, (level[at], slope[at]), prior[at], wanted, ridge, 1e-9, min(most, max_steps)
            )
            unfinished[at] = wanted & (left > 1e-9 * prior[at])
            lowest = lowest & ~unfinished[at]
            loss[at] = torch.where(lowest, _cross_entropy(u, weights, *facts, level[at], slope[at]), loss[at])
            separable[at] |= lowest
            pending[at] &= ~lowest
            advance(int(lowest.sum()))
    for block in blocks(nodes, pending):
        at, (u, weights, hidden) = block.at, standardised(block)
        facts, wanted = (share[at], covariance[at]), pending[at]
        level[at], slope[at], left, taken = minimise(
            u, weights, *facts, (level[at], slope[at]), prior[at], wanted, ridge, tolerance / 100, max_steps
        )
        loss[at] = torch.where(wanted, _cross_entropy(u, weights, *facts, level[at], slope[at]), loss[at])
        remaining[at], steps[at] = torch.where(wanted, left, remaining[at]), torch.where(wanted, taken, steps[at])
        separable[at] |= wanted & _separable(u, weights, hidden, *facts, doubt[at])
        advance(int(wanted.sum()))
    status = torch.where(remaining <= tolerance * loss, Status.CONVERGED, Status.STOPPED).to(torch.int8)
    status[separable & loss.isfinite()] = Status.SEPARABLE
    status[constant] = Status.CONSTANT
    w = slope / scale
    return LogisticFit(level - w * mean, w, loss, steps, status)


def cross_entropy(
    nodes: Nodes,
    positives: Real[Tensor, "#latents classes"] | Real[Tensor, " classes"],
    p1: Float64[Tensor, "latents classes"],
    b: Float64[Tensor, "latents classes"],
    w: Float64[Tensor, "latents classes"],
) -> Float64[Tensor, "latents classes"]:
    """Mean cross-entropy (nats per token) of given fits on the tokens of `nodes`, another split's as a rule.

    An infinite b (a class without positives, or of all tokens, where it was fitted) costs nothing if it is right, else inf.
    """
    share = (positives.double() / nodes.n_tokens).expand_as(p1)
    finite = torch.where(b.isfinite(), b, 0)
    loss = torch.empty_like(p1)
    for block in blocks(nodes, torch.ones_like(p1, dtype=torch.bool)):
        at, weights = block.at, block.weights / nodes.n_tokens
        loss[at] = _cross_entropy(block.values, weights, share[at], p1[at] / nodes.n_tokens, finite[at], w[at])
    right = torch.where(b > 0, share == 1, share == 0)
    return torch.where(b.isfinite(), loss, torch.where(right, 0.0, torch.inf))


def prevalence_entropy(positives: Real[Tensor, "*classes"], n_tokens: int) -> Float64[Tensor, "*classes"]:
    """Cross-entropy (nats per token) of predicting the prevalence everywhere.

    >>> prevalence_entropy(torch.tensor([0, 2]), 4)
    tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    share = positives.double() / n_tokens
    return torch.special.entr(share) - torch.special.xlog1py(1 - share, -share)


def _cross_entropy(
    u: Float64[Tensor, "l nodes"],
    weights: Float64[Tensor, "l nodes"],
    share: Float64[Tensor, "l classes"],
    mean: Float64[Tensor, "l classes"],
    level: Float64[Tensor, "l classes"],
    slope: Float64[Tensor, "l classes"],
) -> Float64[Tensor, "l classes"]:
    # Beyond 40, softplus(t) is t to the last digit.
    each = softplus(torch.addcmul(level[:, None], slope[:, None], u[:, :, None]), threshold=40)
    return torch.bmm(weights[:, None], each).squeeze(1) - level * share - slope * mean


def _separable(
    u: Float64[Tensor, "l nodes"],
    weights: Float64[Tensor, "l nodes"],
    hidden: Float64[Tensor, "l nodes"],
    share: Float64[Tensor, "l classes"],
    covariance: Float64[Tensor, "l classes"],
    doubt: Float64[Tensor, "l classes"],
) -> Bool[Tensor, "l classes"]:
    """Whether the positives have the smallest or the largest codes: then mean y u is as small or large as it can be."""
    held = torch.nn.functional.pad(weights.cumsum(1), (1, 0))
    summed = torch.nn.functional.pad((weights * u).cumsum(1), (1, 0))

    def least(part: Tensor) -> Tensor:
        """At most what the smallest sum of u over such a fraction of the tokens may be."""
        at = (torch.searchsorted(held, part.contiguous(), right=True) - 1).clamp(max=u.shape[1] - 1)
        rest = part - held.gather(1, at)
        return summed.gather(1, at) + rest * u.gather(1, at) + hidden.gather(1, at) * (rest > 1e-12)

    return (covariance <= least(share) + doubt) | (covariance >= -least(1 - share) - doubt)

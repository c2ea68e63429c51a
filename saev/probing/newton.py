"""Newton's method for many logistic regressions on one variable at once, each stopped when it is done.

Latents share nothing, the classes of a latent share its nodes. A step that does not lower the loss is cut back towards
the minimum along it, which the slopes at both ends place; each pair is in its own state, so nobody waits for anybody.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.nn.functional import softplus


class Minimum(NamedTuple):
    """Of each pair: the logit at the latent's mean, its increase per standard deviation, what the loss may still fall by."""

    level: Float64[Tensor, "l classes"]
    slope: Float64[Tensor, "l classes"]
    remaining: Float64[Tensor, "l classes"]
    steps: Int64[Tensor, "l classes"]


def minimise(
    u: Float64[Tensor, "l nodes"],
    weights: Float64[Tensor, "l nodes"],
    share: Float64[Tensor, "l classes"],
    covariance: Float64[Tensor, "l classes"],
    start: tuple[Float64[Tensor, "l classes"], Float64[Tensor, "l classes"]],
    enough: Float64[Tensor, "l classes"],
    wanted: Bool[Tensor, "l classes"],
    ridge: float,
    max_steps: int,
) -> Minimum:
    """Minimise `sum_j weights_j softplus(level + slope u_j) - level share - slope covariance + ridge / 2 slope^2` per pair.

    `u` are standardised codes, the weights of a latent sum to 1, `share` is the mean of y and `covariance` that of y u.
    A pair ends when the Newton decrement says that its loss can fall by no more than `enough`; the last step is taken
    all the same. Pairs that are not `wanted` stay at their start with nothing remaining.
    """
    powers = torch.stack([weights, weights * u, weights * u.square()], 2)
    level, slope = start[0].clone(), start[1].clone()
    remaining = torch.zeros_like(share).masked_fill(wanted, torch.inf)
    steps = torch.zeros_like(share, dtype=torch.int64)
    place = torch.arange(share.numel(), device=u.device).view_as(share)
    nothing = torch.zeros_like(share)
    # Per pair at work: where it stands and its loss there, the step being tried, how fast the loss falls along it at first,
    # how much Newton's model promises, and the pair's constants.
    first = torch.full_like(share, torch.inf)
    state = torch.stack([level, slope, first, nothing, nothing, nothing, first, share, covariance, enough])
    alive = wanted
    for step in range(max_steps + 1):
        if alive.float().mean() < 0.8:
            kept = alive.sum(1)
            rows = kept.nonzero().squeeze(1)
            if not len(rows):
                break
            columns = (~alive[rows]).int().argsort(dim=1, stable=True)[:, : int(kept.max())]
            u, powers, place = u[rows], powers[rows], place[rows].gather(1, columns)
            state = state[:, rows].gather(2, columns.expand(len(state), -1, -1))
            alive = alive[rows].gather(1, columns)
        a, c, loss, da, dc, fall, promise, pi, rho, tol = state
        to_a, to_c = a + da, c + dc
        sums, (ga, gc), (haa, hac, hcc) = _derivatives(u, powers, to_a, to_c)
        found = sums - to_a * pi - to_c * rho + ridge / 2 * to_c.square()
        ga, gc = ga - pi, gc - rho + ridge * to_c
        haa, hcc = haa + 1e-15, hcc + ridge  # where all weight is saturated, the gradient is rounding of this size
        taken = found <= loss + 1e-2 * tol - 1e-4 * fall
        # Where one node has nearly all of the curvature, the difference below is rounding: the floor keeps the step finite.
        schur = torch.maximum(hcc - hac.square() / haa, 1e-13 * hcc)
        new_c = -(gc - ga * hac / haa) / schur
        new_a = -(ga + hac * new_c) / haa
        decrement = -(ga * new_a + gc * new_c)
        # No step can gain more than the whole loss; one that promises to is too long by as much. A loss that has not
        # fallen has its minimum before the end of the step, where the straight line between the slopes crosses 0.
        end = (ga * da + gc * dc).clamp(min=0)
        scale = torch.where(taken, (2 * found / decrement).clamp(0, 1), (fall / (fall + end)).clamp(0.1, 0.5))
        a, c, loss = torch.where(taken, to_a, a), torch.where(taken, to_c, c), torch.where(taken, found, loss)
        da, dc = torch.where(taken, new_a, da) * scale, torch.where(taken, new_c, dc) * scale
        fall = torch.where(taken, decrement, fall) * scale
        promise = torch.where(taken, decrement / 2, promise)
        done = alive & taken & (promise <= tol)
        ended = done if step < max_steps else alive
        at = place[ended]
        level.view(-1)[at], slope.view(-1)[at] = (a + da * done)[ended], (c + dc * done)[ended]
        remaining.view(-1)[at] = promise[ended]
        steps.view(-1)[at] = step
        alive = alive & ~done
        state = torch.stack([a, c, loss, da, dc, fall, promise, pi, rho, tol])
    return Minimum(level, slope, remaining, steps)


def _derivatives(
    u: Float64[Tensor, "l nodes"],
    powers: Float64[Tensor, "l nodes 3"],
    level: Float64[Tensor, "l classes"],
    slope: Float64[Tensor, "l classes"],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weighted sums over nodes of softplus(t), of s (1, u) and of s (1 - s) (1, u, u^2), with t = level + slope u and
    s = sigmoid(t)."""
    t = torch.addcmul(level[:, :, None], slope[:, :, None], u[:, None])
    sums = torch.bmm(softplus(t, threshold=40), powers[:, :, :1]).squeeze(2)
    s = t.sigmoid_()
    first = torch.bmm(s, powers[:, :, :2])
    second = torch.bmm(torch.addcmul(s, s, s, value=-1), powers)
    return sums, first.unbind(2), second.unbind(2)

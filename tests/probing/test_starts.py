"""Starts in closed form: exact for two values, and close to what the ridge leaves of a class that is silence alone."""

import torch

from benchmarks.probe_reference import exact_nodes
from saev.probing.logistic.fit import Status, solve
from saev.probing.logistic.newton import lowest_only, two_points
from saev.probing.logistic.nodes import coarsened


def standardised(points):
    mean, std = points.moments()
    values, weights, _ = points.padded(torch.arange(points.n_latents))
    return (values - mean[:, None]) / std[:, None], weights / points.n_tokens


def test_two_values_are_fitted_by_their_frequencies():
    points = exact_nodes(torch.zeros(40, dtype=torch.int64), torch.full((40,), 2.0, dtype=torch.float64), 1, 100)
    u, weights = standardised(points)
    y = torch.tensor([[6 / 60, 30 / 40], [20 / 60, 10 / 40]]).double()  # of each class: at 0, at 2
    share, covariance = ((y * weights).sum(1)[None], (y * weights * u).sum(1)[None])
    level, slope = two_points(u, share, covariance)
    torch.testing.assert_close(level[:, :, None] + slope[:, :, None] * u[:, None], y.logit()[None])


def test_silence_alone_starts_where_the_ridge_ends():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(900, dtype=torch.float64, generator=generator).exp()
    points = coarsened(exact_nodes(torch.arange(900) % 3, values, 3, 10_000))
    positives = torch.tensor([3, 100, 5000])
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    for ridge in (1e-8, 1e-4):
        fit = solve(points, positives, zeros, ridge=ridge)
        mean, std = points.moments()
        share = (positives / 10_000).double().expand(3, 3)
        level, slope = lowest_only(*standardised(points), share, torch.ones(3, 3, dtype=torch.bool), ridge)
        assert (fit.status == Status.SEPARABLE).all()
        silent = level - slope * (mean / std)[:, None]
        torch.testing.assert_close(silent, fit.b, rtol=0.02, atol=0.05)
        steepness = slope / std[:, None] / fit.w
        assert steepness.min() > 0.2 and steepness.max() < 1.01  # a bound from below

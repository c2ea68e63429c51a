"""The geometric median against a general minimiser, at its kinks, and beside outliers."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from saev.nn import median
from saev.nn.median import geometric_median


def cost(y, points):
    return np.linalg.norm(points - y, axis=1).mean()


def minimised(points):
    return minimize(cost, points.mean(0), args=(points,), method="Powell", options={"xtol": 1e-10, "ftol": 1e-14}).x


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_general_minimiser_finds(seed):
    rng = np.random.default_rng(seed)
    points = rng.exponential(size=(200, 4)) * rng.normal(size=4) + rng.normal(size=4)
    found = geometric_median(torch.from_numpy(points), tolerance=1e-9).numpy()
    np.testing.assert_allclose(found, minimised(points), atol=1e-5)
    assert cost(found, points) <= cost(minimised(points), points) + 1e-12


def test_chunks_add_up(monkeypatch):
    points = torch.from_numpy(np.random.default_rng(0).exponential(size=(100, 3)))
    whole = geometric_median(points)
    monkeypatch.setattr(median, "CHUNK", 7)
    torch.testing.assert_close(geometric_median(points), whole, rtol=1e-9, atol=1e-9)


def test_in_one_dimension_it_is_the_median():
    values = torch.tensor([[3.0], [-1.0], [0.5], [100.0], [7.0]])
    torch.testing.assert_close(geometric_median(values), torch.tensor([3.0]), rtol=0, atol=1e-4)


def test_it_can_be_a_point_of_the_sample():
    """The middle of a cross, met exactly: Weiszfeld's own step would divide by zero."""
    cross = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(geometric_median(cross), torch.zeros(2), rtol=0, atol=0)
    # pulled to the left, by less than the force of one point
    kite = torch.tensor([[0.0, 0.0], [2.0, 0.0], [-1.0, 0.5], [-1.0, -0.5]])
    torch.testing.assert_close(geometric_median(kite), torch.zeros(2), rtol=0, atol=0)
    heavy = torch.cat([torch.full((6, 2), 3.0), cross])  # more than half of all
    torch.testing.assert_close(geometric_median(heavy), torch.full((2,), 3.0), rtol=0, atol=1e-4)


def test_a_point_of_the_sample_that_is_not_the_median_does_not_hold_it():
    """The mean, where it starts, is a point here; without the step of Vardi and Zhang it would end there."""
    points = np.array([[0.0, 0.0], [4.0, 0.0], [-1.0, 1.0], [-1.0, -1.0], [-1.0, 0.5], [-1.0, -0.5]])
    assert (points.mean(0) == points[0]).all()
    found = geometric_median(torch.from_numpy(points), tolerance=1e-9).numpy()
    assert np.linalg.norm(found) > 0.5 and cost(found, points) < cost(points[0], points) - 0.05
    np.testing.assert_allclose(found, minimised(points), atol=1e-4)


def test_outliers_hardly_move_it():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.normal(size=(1000, 8))).float()
    spoilt = points.clone()
    spoilt[:50] += 1e4
    assert float((geometric_median(spoilt) - geometric_median(points)).norm()) < 0.5
    assert float((spoilt.mean(0) - points.mean(0)).norm()) > 1000


def test_points_that_are_all_one():
    torch.testing.assert_close(geometric_median(torch.full((5, 3), 2.5)), torch.full((3,), 2.5))
    torch.testing.assert_close(geometric_median(torch.tensor([[1.0, 2.0]])), torch.tensor([1.0, 2.0]))


def test_an_empty_sample_is_refused():
    with pytest.raises(ValueError, match="no points"):
        geometric_median(torch.zeros(0, 3))

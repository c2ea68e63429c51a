"""Moments equal NumPy's over all rows at once, however the rows are divided and however large their mean is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.shards.moments import Moments, by_role, load_moments, merge_roles, save_moments


def check(moments, rows, rtol):
    x = rows.astype(np.float64)
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=rtol, atol=rtol * x.std())
    np.testing.assert_allclose(moments.variance, x.var(0), rtol=rtol)
    np.testing.assert_allclose(moments.norm_sum / moments.count, np.linalg.norm(x, axis=1).mean(), rtol=rtol)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.sampled_from([1, 3, 1500]), st.integers(0, 9))
def test_any_division(lengths, d_model, seed):
    rng = np.random.default_rng(seed)
    images = [rng.normal(3, 2, (n + 2, d_model)).astype(np.float32) for n in lengths]
    found = by_role(images, {"cls": 2, "patches": -1}, d_model)
    check(found["cls"], np.concatenate([image[:2] for image in images]), 1e-9)
    if sum(lengths) > 1:
        check(found["patches"], np.concatenate([image[2:] for image in images]), 1e-9)
    parts = [by_role([image], {"cls": 2, "patches": -1}, d_model) for image in images]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_roles(merged, part)
    np.testing.assert_allclose(merged["cls"].m2, found["cls"].m2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "mean", "rtol"), [("float16", 200, 1e-6), ("float32", 1e4, 1e-9), ("float64", 1e6, 1e-9)]
)
def test_a_mean_far_beyond_the_spread_costs_no_precision(dtype, mean, rtol):
    rows = np.random.default_rng(0).normal(mean, 1, (5000, 8)).astype(dtype)
    check(Moments.of(rows), rows, rtol)


def test_saved_and_loaded(tmp_path):
    found = by_role([np.eye(4, dtype=np.float32)], {"cls": 1, "patches": 3}, 4)
    save_moments(tmp_path / "stats.safetensors", found)
    again = load_moments(tmp_path / "stats.safetensors")
    assert again.keys() == found.keys() and again["patches"].count == 3
    np.testing.assert_array_equal(again["patches"].m2, found["patches"].m2)
    assert again["cls"].norm_sum == 1

"""NMSE and FVU against dense arithmetic, and what is wrong with the second."""

import dataclasses

import numpy as np
import pytest
from dictionary_bench.worlds import dense_acts, linear, selection, topk

from saev.dictionary_bench.encoding import codes_by_image
from saev.dictionary_bench.reconstruction import fvu, nmse
from saev.metrics.resampling import draws


class Biased:
    """A dictionary that adds a constant to every dimension of the reconstruction."""

    def __init__(self, dictionary, bias: float):
        self.dictionary, self.bias = dictionary, bias
        self.d_model, self.n_latents, self.atoms = dictionary.d_model, dictionary.n_latents, dictionary.atoms

    def encode(self, acts):
        return self.dictionary.encode(acts)

    def decode(self, codes):
        return self.dictionary.decode(codes) + self.bias


def test_values_and_draws_are_those_of_dense_arithmetic(tmp_path):
    chosen, member = selection(tmp_path / "r", n_examples=10), topk()
    acts, codes, drawn = dense_acts(chosen).double(), codes_by_image({"a": member}, chosen)["a"], draws(10, 8)
    residual = acts - member(acts.float().flatten(0, 1)).detach().unflatten(0, acts.shape[:2])
    n, error = acts.shape[0] * acts.shape[1], nmse(codes, drawn)
    assert error.value == pytest.approx((residual.square().sum() / (acts - acts.mean((0, 1))).square().sum()).item())
    found = fvu(codes, drawn)
    parts = [x.square().sum() / n - (x.sum() / n) ** 2 for x in (residual, acts - 0)]
    assert parts[1] < 0 and found.value == np.inf  # no variance is negative
    assert found.details["over_scalars"] == pytest.approx((residual.var() / acts.var()).item(), rel=1e-5)
    again = acts[np.repeat(np.arange(10), drawn[:, 0])], residual[np.repeat(np.arange(10), drawn[:, 0])]
    variation = codes.images.variation[np.repeat(np.arange(10), drawn[:, 0])].sum()
    assert error.draws[0] == pytest.approx(again[1].square().sum().item() / variation)
    assert len(found.draws) == 8


def test_a_constant_error_lowers_fvu_and_raises_nmse(tmp_path):
    """The fault of ViSAEBench's FVU: the reconstruction that is off by 0.5 everywhere scores better."""
    chosen, good = selection(tmp_path / "r", n_examples=10), linear()
    codes = codes_by_image({"good": good, "biased": Biased(good, 0.5)}, chosen)
    shifted = {}
    for name, one in codes.items():
        images = one.images
        # the same images about their grand mean, so that the denominator is positive
        mean = images.total.sum() / (images.tokens.sum() * 16)
        square = images.square - 2 * mean * images.total + images.tokens * 16 * mean**2
        about = dataclasses.replace(images, total=images.total - images.tokens * 16 * mean, square=square)
        shifted[name] = dataclasses.replace(one, images=about)
    assert fvu(shifted["biased"]).value < fvu(shifted["good"]).value
    assert fvu(shifted["biased"]).details["over_scalars"] == pytest.approx(fvu(shifted["good"]).details["over_scalars"])
    assert nmse(codes["biased"]).value > nmse(codes["good"]).value

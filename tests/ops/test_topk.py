"""Selection against sorting in NumPy; equal values may be chosen either way, never too many."""

import numpy as np
import pytest
import torch

from benchmarks.ops_reference import batchtopk_codes, batchtopk_reference
from saev.ops.topk import batchtopk, topk_codes, topk_indices


def _h(batch=64, d_sae=96, seed=0):
    return torch.randn(batch, d_sae, generator=torch.Generator().manual_seed(seed))


def _kept(h, n):
    """relu(h) with all but its n largest values set to 0 (values are distinct)."""
    flat = np.maximum(h.ravel(), 0)
    out = np.zeros_like(flat)
    largest = np.argsort(-flat, kind="stable")[:n]
    out[largest] = flat[largest]
    return out.reshape(h.shape)


@pytest.mark.parametrize("k", [1, 3, 95, 96])
@pytest.mark.parametrize("shift", [0.0, -1.5, 3.0])
def test_codes_keep_the_largest(k, shift):
    h = _h() + shift
    per_token = np.stack([_kept(row, k) for row in h.numpy()])
    np.testing.assert_array_equal(topk_codes(h, k), per_token)
    np.testing.assert_array_equal(batchtopk_codes(h, k), _kept(h.numpy(), k * len(h)))


@pytest.mark.parametrize("codes", [topk_codes, batchtopk_codes])
def test_ties_never_exceed_the_budget(codes):
    h = torch.randint(0, 3, (50, 40), generator=torch.Generator().manual_seed(0)).float()
    f = codes(h, 4)
    assert (f != 0).sum() == 4 * 50
    assert f.sum() == h.sort(1, descending=True).values[:, :4].sum() if codes is topk_codes else f.min() == 0
    assert (codes(torch.ones(50, 40), 4) != 0).sum() == 4 * 50
    torch.testing.assert_close(codes(h, 4), f, rtol=0, atol=0)


@pytest.mark.parametrize("codes", [topk_codes, batchtopk_codes])
def test_gradient_reaches_the_kept_positive_values_alone(codes):
    h = _h().requires_grad_()
    f = codes(h, 60)  # more than are positive in many rows
    f.backward(weight := torch.randn_like(f))
    torch.testing.assert_close(h.grad, torch.where(f > 0, weight, 0.0), rtol=0, atol=0)


@pytest.mark.parametrize("codes", [topk_codes, batchtopk_codes])
def test_nan_is_not_hidden(codes):
    h = _h(batch=300, d_sae=200)
    h[17, 5] = torch.nan
    assert codes(h, 3).isnan().any()


def _spiked(h):
    """Large values exactly where the strided sample looks, so that it guesses far too high."""
    flat = torch.full_like(h, 0.5).flatten() + torch.rand(h.numel()) * 0.1
    flat[:: max(1, h.numel() // 32768)] = 9.0
    return flat.view_as(h)


@pytest.mark.parametrize("k", [1, 4, 16, 120])
@pytest.mark.parametrize(
    "make",
    [
        lambda h: h,
        lambda h: h - 10,  # nothing is positive
        lambda h: torch.where(torch.arange(len(h))[:, None] < 3, h, h - 20),  # all from three tokens
        lambda h: torch.where(torch.arange(h.shape[1]) == 7, h + 9, h - 3),  # all from one latent
        lambda h: h.sort(dim=1).values,
        _spiked,
    ],
    ids=["normal", "negative", "three-tokens", "one-latent", "sorted", "spiked"],
)
def test_prefiltered_batch_selection_is_exact(make, k):
    h = make(_h(batch=600, d_sae=128))
    indices, reference = batchtopk(h, k).indices, batchtopk_reference(h, k).indices
    assert len(indices.unique()) == len(indices) <= 600 * k
    found, expected = (h.flatten()[p].relu().sort(descending=True).values for p in (indices, reference))
    assert torch.equal(found, expected[: len(found)]) and not expected[len(found) :].any()


def test_indices_have_k_different_latents_per_token():
    indices = topk_indices(_h(), 5)
    assert indices.shape == (64, 5) and all(len(set(row)) == 5 for row in indices.tolist())


@pytest.mark.parametrize("k", [0, -1, 97])
def test_k_must_fit(k):
    for function in (topk_codes, batchtopk_codes):
        with pytest.raises(ValueError, match=f"k={k}.*d_sae=96"):
            function(_h(), k)

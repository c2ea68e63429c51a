"""Recordings of tensors: what was given is read back, and everything that takes a recording takes them."""

import numpy as np
import pytest
import torch

from datamodules import ActivationDataModule
from saev.shards import open_stream, store_activations, tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(40, 8), (10, 4, 8)], ids=["tokens", "images"])
def test_the_values_are_read_back(shape, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "SHARD_BYTES", 300)  # several shards
    acts = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    store = store_activations(acts.requires_grad_(), tmp_path / "acts", layer=8)
    expected = acts.detach() if dtype == torch.float16 else acts.detach().float()
    stored = np.concatenate(
        [batch["acts"] for batch in open_stream(store, 8, 7).batches(0, open_stream(store, 8, 7).n_batches)]
    )
    assert store.manifest.dtype == str(expected.dtype).removeprefix("torch.") and len(store.shard_paths(8)) > 1
    np.testing.assert_array_equal(stored, expected.reshape(-1, 8).numpy())
    assert set(store.examples["grid_w"]) == {4 if len(shape) == 3 else 1}  # pages draw tokens as a row
    moments = store.moments(8, "patches")
    np.testing.assert_allclose(moments.mean, stored.astype(float).mean(0), atol=1e-6)


def test_the_same_activations_are_stored_once(tmp_path):
    acts = np.random.default_rng(0).normal(size=(20, 8))
    first = store_activations(acts, tmp_path / "acts").manifest
    assert store_activations(acts, str(tmp_path / "acts")).manifest == first
    with pytest.raises(ValueError, match="never overwritten"):
        store_activations(acts + 1, tmp_path / "acts")


def test_training_splits_them_by_example(tmp_path):
    store = store_activations(torch.randn(200, 8), tmp_path / "acts", layer=3)
    data = ActivationDataModule(str(store.root), 3, 16, val_fraction=0.2, pool=64)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len(data.val_examples) == 40 and batch["acts"].shape[1] == 8


@pytest.mark.parametrize("acts", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(1, 2, 3, 4)])
def test_other_shapes_are_refused(acts, tmp_path):
    with pytest.raises(ValueError, match=r"must be \[n, d_model\] or \[images, tokens, d_model\]"):
        store_activations(acts, tmp_path / "acts")


def test_values_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinite"):
        store_activations(np.full((4, 8), np.nan), tmp_path / "acts")

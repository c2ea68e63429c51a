"""The stability of latents against whole matrices of cosines."""

import numpy as np
import polars as pl
import torch

from saev.evaluation.stability import compare
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.saved import find_dictionaries


def autoencoder(atoms: np.ndarray) -> SparseAutoencoder:
    n, d_model = atoms.shape
    sae = SparseAutoencoder(d_model, n, TopK(1), Normaliser(torch.zeros(d_model), torch.tensor(1.0)))
    with torch.no_grad():
        sae.w_dec.copy_(torch.from_numpy(atoms))
    return sae


def test_it_is_the_fraction_of_other_dictionaries_with_a_similar_atom():
    rng = np.random.default_rng(0)
    atoms = {name: rng.normal(size=(n, 6)).astype(np.float32) for name, n in (("a", 30), ("b", 20), ("c", 25))}
    atoms["b"][:10] = 2 * atoms["a"][5:15] + 0.1 * rng.normal(size=(10, 6))  # in another order and scale
    atoms["other width"] = rng.normal(size=(8, 5)).astype(np.float32)
    members = {name: autoencoder(rows) for name, rows in atoms.items()}
    table = compare(find_dictionaries(members), members)[1]
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in atoms.items()}
    assert table["member"].unique(maintain_order=True).to_list() == ["a", "b", "c"], "no other has the fourth's d_model"
    for name in "abc":
        rows = table.filter(member=name)
        expected = np.mean([(unit[name] @ unit[other].T).max(1) >= 0.7 for other in "abc" if other != name], 0)
        np.testing.assert_array_equal(rows["latent"], np.arange(len(unit[name])))
        np.testing.assert_allclose(rows["stability"], expected)
        assert rows["n_others"].unique().to_list() == [2] and rows["sha256"].null_count() == len(rows)
    assert table.filter(member="a")["stability"][5:15].min() >= 0.5


def test_the_null_has_the_others_with_permuted_dimensions():
    """Copies are stable; a permutation of the dimensions of unit vectors along axes moves each to another axis."""
    members = {name: autoencoder(np.eye(7, dtype=np.float32)[:4]) for name in "ab"}
    table = compare(find_dictionaries(members), members)[1]
    assert (table["stability"] == 1).all()
    order = np.random.default_rng(0).permutation(7)
    moved = np.eye(7)[:4][:, order]
    expected = (np.eye(7)[:4] @ moved.T).max(1)
    np.testing.assert_array_equal(table.filter(pl.col("member") == "a")["stability_null"], expected)

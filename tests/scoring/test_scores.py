"""Scores of images: pooled while activations are read, and read from codes on disk."""

import numpy as np
import pytest
import torch
from trait_evaluation.sources.recorded import recorded

import saev
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.saved import find_dictionaries
from saev.scoring.pooling import pooled_scores
from saev.scoring.scorers import Activations, BothSigns
from saev.scoring.stored import pooled_codes, stored_codes
from saev.shards.selected_tokens import Selection

SIZES = [1, 2, 5, 3, 9, 4, 7]  # patches of each image


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    labels = [[0] * size for size in SIZES]
    return recorded(tmp_path_factory.mktemp("scores") / "one", [{} for _ in SIZES], labels, {0: "x"})


def brute_force(store, images, pool):
    out = []
    for image in images:
        acts = np.sort(store.read(4, int(image), "patches").astype(np.float32), axis=0)[::-1]
        out.append({"max": acts[0], "mean": acts.mean(0), "top3": acts[:3].mean(0)}[pool])
    return np.stack(out)


@pytest.mark.parametrize("pool", ["max", "mean", "top3"])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_pooled_scores_are_those_of_each_image(store, pool, batch_size):
    images = np.array([1, 2, 4, 6])
    selection = Selection(store, 4, images)
    scorers = {"raw": Activations(8), "both": BothSigns(Activations(8))}
    pooled = pooled_scores(scorers, selection, dict.fromkeys(scorers, pool), batch_size, "cpu")
    expected = brute_force(store, images, pool)
    np.testing.assert_allclose(pooled["raw"], expected, atol=1e-6)
    np.testing.assert_allclose(pooled["both"][:, :8], expected, atol=1e-6)
    assert pooled["both"].shape == (4, 16) and (pool != "mean" or np.allclose(pooled["both"][:, 8:], -expected))


def test_scores_that_are_not_finite_are_refused(store):
    class Broken(Activations):
        def __call__(self, acts):
            return acts.log()

    with pytest.raises(ValueError, match="mine returns scores that are not finite"):
        pooled_scores({"mine": Broken(8)}, Selection(store, 4, np.arange(7)), {"mine": "max"}, 100, "cpu")


def test_a_scorer_of_another_shape_is_named(store):
    class Wrong:
        n_prototypes = 3

        def __call__(self, acts):
            return acts

    with pytest.raises(ValueError, match=r"mine returns scores of shape \(\d+, 8\).*n_prototypes"):
        pooled_scores({"mine": Wrong()}, Selection(store, 4, np.arange(7)), {"mine": "max"}, 100, "cpu")


@pytest.mark.parametrize("pool", ["max", "mean", "top3"])
def test_codes_on_disk_give_the_same_scores_as_encoding(store, tmp_path, pool):
    torch.manual_seed(0)
    sae = SparseAutoencoder(8, 64, TopK(k=2), Normaliser(torch.zeros(8), torch.ones(()))).eval()
    torch.nn.init.normal_(sae.w_enc)
    saev.save_dictionary(sae, tmp_path / "sae", provenance={"layer": 4})
    (one,) = find_dictionaries(tmp_path / "sae")
    images = np.array([0, 2, 3, 5])
    selection = Selection(store, 4, images)
    codes = stored_codes(one, selection, tmp_path / "codes", 100, "cpu")
    scorer = saev.Scorer(sae)
    pooled = pooled_scores({"sae": scorer}, selection, {"sae": pool}, 100, "cpu")["sae"]
    assert np.count_nonzero(pooled) > 10
    np.testing.assert_allclose(pooled_codes(codes, images, pool).toarray(), pooled, rtol=2e-3, atol=1e-6)

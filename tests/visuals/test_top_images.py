import numpy as np
import pytest
import torch

from saev.nn import SparseAutoencoder, TopK
from saev.shards import ActivationStore
from saev.visuals.top_images import NONE, heatmaps, image_max, survey
from tests.visuals.conftest import D_MODEL, GRID, LAYER, N_IMAGES, identity_sae


def random_sae(seed: int) -> SparseAutoencoder:
    sae = SparseAutoencoder(D_MODEL, 40, TopK(4))
    with torch.no_grad():
        sae.w_enc.copy_(torch.randn(D_MODEL, 40, generator=torch.Generator().manual_seed(seed)))
    return sae.eval().requires_grad_(False)


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("tokens", ["patches", "all"])
def test_a_survey_is_what_brute_force_finds(store: ActivationStore, values, batch_tokens: int, tokens: str):
    members = {"identity": identity_sae(), "random": random_sae(1)}
    examples, n = [7, 2, 3, 9, 0, 5], 3
    found = survey(members, store, LAYER, examples, tokens, n, batch_tokens)
    for name, sae in members.items():
        seen = values[examples][:, 1:] if tokens == "patches" else values[examples]
        codes = (
            sae.encode(torch.from_numpy(seen.reshape(-1, D_MODEL))).numpy().reshape(len(examples), seen.shape[1], -1)
        )
        got = found[name]
        assert (got.n_images, got.n_tokens) == (6, 6 * seen.shape[1])
        for latent in range(codes.shape[2]):
            own = codes[:, :, latent]
            np.testing.assert_allclose(got.frequency[latent], np.mean(own != 0))
            np.testing.assert_allclose(got.mean_value[latent], own[own != 0].mean() if own.any() else 0, rtol=1e-6)
            peak = own.max(1)
            assert got.images[latent] == (peak > 0).sum()
            best = [i for i in np.argsort(-peak, kind="stable")[:n] if peak[i] > 0]
            expected = [examples[i] for i in best] + [NONE] * (n - len(best))
            assert got.example[latent].tolist() == expected
            np.testing.assert_allclose(got.value[latent, : len(best)].numpy(), peak[best], rtol=1e-6)


def test_equal_values_keep_the_order_of_the_store(store: ActivationStore):
    class Constant:
        d_model, n_latents = D_MODEL, 2
        atoms = torch.zeros(2, D_MODEL)

        def encode(self, acts):
            return torch.ones(len(acts), 2)

        def decode(self, codes):
            return codes.new_zeros(len(codes), D_MODEL)

    for batch_tokens in (1, 25, 1000):
        found = survey({"same": Constant()}, store, LAYER, range(N_IMAGES), n=4, batch_tokens=batch_tokens)["same"]
        assert found.example.tolist() == [[0, 1, 2, 3]] * 2


def test_more_images_requested_than_there_are(store: ActivationStore):
    found = survey({"a": identity_sae()}, store, LAYER, [4, 1], n=8)["a"]
    assert found.example.shape == (D_MODEL, 8)
    assert (found.example[:, 2:] == NONE).all()
    assert (found.example[5] == NONE).all() and found.firings[5] == 0 and found.mean_value[5] == 0


def test_a_diverged_dictionary_neither_ends_the_pass_nor_spoils_the_others(store: ActivationStore):
    broken = identity_sae()
    broken.b_enc.fill_(torch.nan)
    found = survey({"broken": broken, "sound": identity_sae()}, store, LAYER, range(N_IMAGES))
    assert not found["broken"].firings.any() and (found["broken"].example == NONE).all()
    alone = survey({"sound": identity_sae()}, store, LAYER, range(N_IMAGES))["sound"]
    assert torch.equal(found["sound"].value, alone.value)


def test_no_images_at_all(store: ActivationStore):
    found = survey({"a": identity_sae()}, store, LAYER, [])["a"]
    assert found.n_tokens == 0 and (found.frequency == 0).all()


def test_dictionaries_in_training_mode_are_refused(store: ActivationStore):
    with pytest.raises(AssertionError, match="eval mode"):
        survey({"a": identity_sae().train()}, store, LAYER, [0])


def test_images_of_different_length():
    codes = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([codes[:2].amax(0), codes[2:8].amax(0), codes[8:].amax(0)])
    assert torch.equal(image_max(codes, [2, 6, 1]), expected)


def test_a_heat_map_shows_a_bright_patch_where_it_is(tmp_path, order):
    from tests.visuals.conftest import make_store

    values = np.full((N_IMAGES, 1 + GRID[0] * GRID[1], D_MODEL), -1, np.float32)
    row, column, image, latent = 2, 1, 6, 3
    values[image, 0, latent] = 99  # the cls token must not appear on the map
    values[image, 1 + row * GRID[1] + column, latent] = 7
    store = make_store(tmp_path / "planted", values, order, {"cls": 1, "patches": GRID[0] * GRID[1]})
    expected = np.zeros(GRID, np.float32)
    expected[row, column] = 7
    np.testing.assert_array_equal(heatmaps(identity_sae(), store, LAYER, image, [latent])[0], expected)


def test_several_heat_maps_of_an_image_are_the_single_ones(store: ActivationStore):
    sae = identity_sae()
    together = heatmaps(sae, store, LAYER, 3, [4, 0])
    np.testing.assert_array_equal(together, [heatmaps(sae, store, LAYER, 3, [latent])[0] for latent in (4, 0)])

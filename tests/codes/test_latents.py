"""Statistics of latents equal those computed by NumPy over all codes at once, however the tokens are split."""

import numpy as np
import pytest
import torch
from codes.dictionaries import D_MODEL, D_SAE, sae
from recordings import acts_of

from saev.codes.latents import LatentStatistics
from saev.codes.pairs import from_dense, sparse_codes

TOKENS, IMAGES = 16, 30


@pytest.fixture(scope="module")
def dense():
    """Codes [images * tokens, latents], with ties between images and within one, and a latent that never fires."""
    acts = np.concatenate([acts_of(example, 1, TOKENS, D_MODEL) for example in range(IMAGES)])
    codes = sae("relu").encode(torch.from_numpy(acts)).numpy()
    codes = np.round(codes, 1)
    codes[:, 7] = 0
    codes[:, 8] *= -1
    return codes


def reference(dense, n):
    """Per latent the n best (value, image, token), one an image: first by value, then by image, then by token."""
    found = []
    for codes in dense.T:
        by_image = codes.reshape(IMAGES, TOKENS)
        best = [(-by_image[i].max(), i, int(by_image[i].argmax())) for i in range(IMAGES) if by_image[i].max() > 0]
        found.append([(-value, image, token) for value, image, token in sorted(best)[:n]])
    return found


def streamed(dense, cuts, n, floor=None):
    statistics = LatentStatistics(D_SAE, n, floor)
    example, token = np.divmod(np.arange(len(dense)), TOKENS)
    for rows in np.split(np.arange(len(dense)), cuts):
        codes = (field.numpy() for field in from_dense(torch.from_numpy(dense[rows])))
        statistics.update(*codes, example[rows], token[rows].astype(np.int32))
    return statistics


def check(statistics, dense, n):
    table = statistics.table(len(dense))
    fires = dense != 0
    assert table["firings"].to_list() == fires.sum(0).tolist()
    np.testing.assert_allclose(table["frequency"], fires.mean(0), rtol=1e-12)
    with np.errstate(invalid="ignore"):
        mean = dense.sum(0, dtype=np.float64) / fires.sum(0)
    np.testing.assert_allclose(table["mean_value"], mean, rtol=1e-6)
    largest = np.where(fires, dense, -np.inf).max(0)
    np.testing.assert_array_equal(table["max_value"], np.where(fires.any(0), largest, np.nan))
    for latent, wanted in enumerate(reference(dense, n)):
        lists = [table[f"top_{name}"][latent].to_list() for name in ("value", "example", "token")]
        assert list(zip(*lists, strict=True)) == [(pytest.approx(v), i, t) for v, i, t in wanted], latent


@pytest.mark.parametrize("buffer", [0, 500, 1 << 17])
@pytest.mark.parametrize("cuts", [[], [100], list(range(1, 480)), [33, 34, 200]], ids=["one", "two", "each", "odd"])
def test_they_are_those_of_numpy(dense, cuts, buffer, monkeypatch):
    monkeypatch.setattr("saev.codes.latents.BUFFER", buffer)
    check(streamed(dense, cuts, 16), dense, 16)
    check(streamed(dense, cuts, 3), dense, 3)


def test_parts_add_up(dense, tmp_path):
    whole = LatentStatistics(D_SAE, 5)
    for images in np.split(np.arange(IMAGES), [4, 11]):
        part = dense.copy().reshape(IMAGES, TOKENS, D_SAE)
        part[np.setdiff1d(np.arange(IMAGES), images)] = 0
        streamed(part.reshape(-1, D_SAE), [77], 5).save(tmp_path / "part.safetensors")
        whole.merge(LatentStatistics.load(tmp_path / "part.safetensors"))
    check(whole, dense, 5)


def test_what_lower_images_surpass_need_not_be_kept(dense):
    """The floor that one shard leaves for the next does not change what both make together."""
    halves = [dense.copy().reshape(IMAGES, TOKENS, D_SAE) for _ in range(2)]
    halves[0][12:], halves[1][:12] = 0, 0
    first = streamed(halves[0].reshape(-1, D_SAE), [100], 5)
    first.top.settle()
    second = streamed(halves[1].reshape(-1, D_SAE), [300], 5, first.top.least)
    second.top.settle()
    without = streamed(halves[1].reshape(-1, D_SAE), [300], 5)
    without.top.settle()
    assert (second.top.value > 0).sum() < (without.top.value > 0).sum()
    first.merge(second)
    check(first, dense, 5)


def test_a_latent_that_never_fires_has_no_values_and_no_images(dense):
    row = streamed(dense, [100], 4).table(len(dense)).row(7, named=True)
    assert row["frequency"] == 0 and np.isnan(row["mean_value"]) and np.isnan(row["max_value"])
    assert row["top_example"] == row["top_token"] == row["top_value"] == []


def test_negative_codes_count_as_firings_and_have_no_top_images(dense):
    row = streamed(dense, [100], 4).table(len(dense)).row(8, named=True)
    assert row["firings"] > 0 and row["max_value"] < 0 and row["top_example"] == []


def test_they_are_taken_before_rounding():
    acts = torch.from_numpy(acts_of(0, 1, TOKENS, D_MODEL))
    dictionary = sae("topk")
    codes = sparse_codes(dictionary, acts)
    statistics = LatentStatistics(D_SAE)
    statistics.update(*(field.numpy() for field in codes), np.zeros(TOKENS, np.int64), np.arange(TOKENS))
    np.testing.assert_allclose(statistics.value_sum, dictionary.encode(acts).double().sum(0))

"""Moran's I against its definition, its null against permutations, its interval against resampled images."""

import dataclasses

import numpy as np
from dictionary_bench.worlds import linear, selection, topk

from saev.dictionary_bench.encoding import codes_by_image
from saev.dictionary_bench.localisation import localisation
from saev.dictionary_bench.spatial import degrees, morans_i
from saev.metrics.resampling import draws


def test_degrees_of_a_grid():
    assert degrees(3, 4).reshape(3, 4).tolist() == [[3, 5, 5, 3], [5, 8, 8, 5], [3, 5, 5, 3]]
    assert degrees(1, 3).tolist() == [1, 2, 1]


def test_a_cluster_a_chessboard_and_maps_that_are_not_valid():
    chess = np.flatnonzero((np.add.outer(np.arange(6), np.arange(6)) % 2 == 0).ravel())
    block = np.array([0, 1, 2, 6, 7, 8, 12, 13, 14])
    patches = [block, chess, np.arange(4), np.arange(33), np.array([], int)]
    found = morans_i(np.array([len(p) for p in patches]), np.concatenate(patches), np.ones(64), 6, 6)
    assert found[0] > 0.5 and found[1] < 0 and np.isnan(found[2:]).all()


def test_the_null_is_the_mean_over_permutations():
    rng = np.random.default_rng(0)
    values, maps = rng.random(7) + 0.1, 20000
    patches = np.concatenate([rng.permutation(20)[:7] for _ in range(maps)])
    found = morans_i(np.full(maps, 7), patches, np.tile(values, maps), 4, 5)
    assert abs(found.mean() + 1 / 19) < 4 * found.std() / np.sqrt(maps)


def test_localisation_of_all_latents(tmp_path):
    chosen = selection(tmp_path / "r", n_examples=30)
    codes = codes_by_image({"a": topk()}, chosen)["a"]
    maps = np.full((30, 48), np.nan)
    maps[np.repeat(np.arange(30), np.diff(codes.offsets)), codes.latents] = codes.morans_i
    counts = np.isfinite(maps).sum(0)
    measured = counts >= 4
    drawn = draws(30, 20, 3)
    result = localisation(codes, drawn, min_images=4)
    assert result.n == measured.sum() > 3
    assert np.isclose(result.value, np.nanmean(maps[:, measured], axis=0).mean(), atol=1e-6)
    assert np.isclose(result.null, -1 / 15)
    for column, value in zip(drawn.T, result.draws, strict=True):
        again = np.repeat(maps[:, measured], column, axis=0)
        again = again[:, np.isfinite(again).any(0)]
        assert np.isclose(value, np.nanmean(again, axis=0).mean(), atol=1e-6)
    assert localisation(codes, drawn).details["reason"] == "no latent has a valid map on min_images=50 images"


def test_dense_codes_have_no_valid_map(tmp_path):
    chosen = selection(tmp_path / "r", n_examples=6)
    codes = codes_by_image({"a": linear(threshold=0.0)}, chosen)["a"]
    assert np.isfinite(localisation(codes, min_images=1).value)
    bare = dataclasses.replace(codes.images, grids=np.zeros((6, 2), np.int64))
    bare = dataclasses.replace(codes, images=bare, morans_i=np.full_like(codes.morans_i, np.nan))
    assert localisation(bare, min_images=1).details["reason"] == "no image has a grid of recorded patches"

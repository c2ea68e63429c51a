"""The grid that a picture gets: its rule against brute force, its distortions, its extremes; pixels and masks alike."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saev.shards.manifest import VOID
from saev.vits.flex import FITS, FlexTransform, choose_grid
from saev.vits.transform import ImageTransform

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def distortion(width, height, grid):
    """The factor by which stretching to the grid changes the aspect ratio."""
    ratio = (grid[1] * height) / (grid[0] * width)
    return max(ratio, 1 / ratio)


# picture (width, height) -> for at most 256 and 640 patches: grid (h, w), fraction of the patches used, distortion
TABLE = {
    (640, 480): [((14, 18), 0.984, 1.037), ((22, 29), 0.997, 1.011)],
    (480, 640): [((18, 14), 0.984, 1.037), ((29, 22), 0.997, 1.011)],
    (1024, 768): [((14, 18), 0.984, 1.037), ((22, 29), 0.997, 1.011)],
    (1920, 1080): [((12, 21), 0.984, 1.016), ((19, 33), 0.980, 1.024)],
    (500, 375): [((14, 18), 0.984, 1.037), ((22, 29), 0.997, 1.011)],
    (500, 333): [((13, 19), 0.965, 1.027), ((20, 30), 0.938, 1.001)],
    (512, 512): [((16, 16), 1.000, 1.000), ((25, 25), 0.977, 1.000)],
    (2000, 500): [((8, 32), 1.000, 1.000), ((12, 48), 0.900, 1.000)],
    (6000, 500): [((4, 48), 0.750, 1.000), ((7, 84), 0.919, 1.000)],
    (1000, 1): [((1, 256), 1.000, 3.906), ((1, 640), 1.000, 1.562)],
    (1, 1): [((16, 16), 1.000, 1.000), ((25, 25), 0.977, 1.000)],
}
PHOTOS = [size for size in TABLE if max(size) <= 4 * min(size)]
SIDES = st.integers(1, 3000)


@pytest.mark.parametrize("size", TABLE, ids=lambda size: f"{size[0]}x{size[1]}")
def test_distortions_of_typical_pictures(size):
    for most, (grid, used, factor) in zip((256, 640), TABLE[size], strict=True):
        found = choose_grid(*size, most)
        assert found == grid
        assert math.prod(found) / most == pytest.approx(used, abs=1e-3)
        assert distortion(*size, found) == pytest.approx(factor, abs=1e-3)


@pytest.mark.parametrize("most", [256, 640])
def test_photos_use_nearly_all_patches_and_are_hardly_distorted(most):
    for width, height in PHOTOS:
        grid = choose_grid(width, height, most)
        assert math.prod(grid) >= 0.9 * most and distortion(width, height, grid) < 1.04


def cost(width: int, height: int, grid: tuple[int, int], most: int) -> float:
    h, w = grid
    return abs(math.log((w / h) / (width / height))) + 0.5 * math.log(most / (h * w))


@given(SIDES, SIDES, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_no_grid_is_better_than_the_one_chosen(width, height, most):
    chosen = choose_grid(width, height, most)
    grids = [(h, w) for h in range(1, most + 1) for w in range(1, most + 1) if h * w <= most]
    assert chosen in grids
    assert cost(width, height, chosen, most) <= min(cost(width, height, grid, most) for grid in grids) + 1e-9


@given(SIDES, SIDES, st.sampled_from([1, 7, 64, 256, 640]))
@settings(max_examples=60, deadline=None)
def test_a_turned_picture_gets_the_turned_grid(width, height, most):
    one, two = choose_grid(width, height, most), choose_grid(height, width, most)
    assert two == one[::-1] or cost(width, height, one, most) == pytest.approx(cost(width, height, two[::-1], most))


@given(SIDES, SIDES, st.sampled_from([3, 64, 256, 640]), st.sampled_from([8, 14, 16]))
@settings(max_examples=100, deadline=None)
def test_padding_never_fills_a_patch_and_keeps_the_aspect(width, height, most, patch):
    transform = FlexTransform(most, patch, *HALF, fit="pad").at(width, height)
    top, left, h, w = transform.covered(width, height)
    below, right = transform.size[0] - top - h, transform.size[1] - left - w
    assert 0 <= top <= below < patch and 0 <= left <= right < patch, "centred, less than a patch at each side"
    assert top == below == 0 or left == right == 0, "one direction is filled"
    assert 0 <= w * height - h * width < height or 0 <= h * width - w * height < width, "to the pixel, rounded up"


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(sorted(FITS)), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_masks_cover_the_pixels_that_the_picture_covers(width, height, fit, seed):
    """A picture whose colours are its ids, resampled without mixing, must come out as the mask does."""
    ids = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    transform = FlexTransform(20, 4, (0.0,) * 3, (1.0,) * 3, "nearest", fit)
    seen = transform(Image.fromarray(ids)).numpy()[0]
    mask = transform.mask(ids)
    assert mask.shape == seen.shape == tuple(4 * n for n in transform.grid(width, height))
    covered = mask != VOID
    assert (fit == "pad" or covered.all()) and (seen[~covered] == 0).all()
    at = transform.at(width, height)
    (top, left, h, w), box = at.covered(width, height), at.box(width, height)
    clear = np.ix_(~on_an_edge(box[1], box[3], h), ~on_an_edge(box[0], box[2], w))
    one, two = mask[top : top + h, left : left + w], np.rint(seen[top : top + h, left : left + w] * 255)
    assert np.array_equal(one[clear], two[clear])


def on_an_edge(start: float, stop: float, n: int) -> np.ndarray:
    """Which centres of n equal parts lie between two pixels, where rounding decides."""
    at = start + (np.arange(n) + 0.5) * (stop - start) / n
    return np.abs(at - np.rint(at)) < 1e-6


def test_masks_keep_ids_of_any_size():
    ids = np.arange(12, dtype=np.int32).reshape(3, 4) * 5000
    found = FlexTransform(12, 2, *HALF, fit="pad").mask(ids)
    assert {*np.unique(found)} - {VOID} == {*np.unique(ids)}


def test_crop_loses_the_overhang_and_stretch_nothing():
    for width, height in [(640, 480), (1920, 1080), (1000, 1)]:
        for fit in ("stretch", "crop"):
            transform = FlexTransform(256, 16, *HALF, fit=fit).at(width, height)
            left, top, right, bottom = transform.box(width, height)
            assert transform.covered(width, height) == (0, 0, *transform.size)
            if fit == "stretch":
                assert (left, top, right, bottom) == (0, 0, width, height)
            else:
                assert (right - left) / (bottom - top) == pytest.approx(transform.size[1] / transform.size[0])


def test_a_picture_of_the_fixed_aspect_is_seen_as_a_fixed_transform_sees_it():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    fixed = ImageTransform((64, 64), *HALF)(picture)
    for fit in FITS:
        assert (FlexTransform(16, 16, *HALF, fit=fit)(picture) == fixed).all()

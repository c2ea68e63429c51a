"""Mean maps: other grids are resampled, and centres of mass are aligned without losing mass."""

import numpy as np
import pytest

from saev.contrasts.cards import shown
from saev.contrasts.maps import aligned, commonest, mean_map, resampled


def test_maps_of_one_grid_are_averaged():
    maps = [np.full((2, 3), value, np.float32) for value in (1, 3)]
    assert mean_map(maps, (2, 3)) == pytest.approx(np.full((2, 3), 2))
    assert commonest([(2, 3), (4, 4), (2, 3)]) == (2, 3) and commonest([(2, 2), (3, 3)]) == (3, 3)


def test_another_grid_keeps_constants_and_positions():
    one = np.zeros((8, 8), np.float32)
    one[:4, :4] = 1
    small = resampled(one, (4, 4))
    assert small[0, 0] == pytest.approx(1) and small[3, 3] == 0
    assert resampled(np.full((3, 5), 2, np.float32), (4, 4)) == pytest.approx(np.full((4, 4), 2))


def test_the_centre_of_mass_goes_to_the_middle_and_mass_is_kept():
    one = np.zeros((8, 8), np.float32)
    one[0, 7] = 4
    moved = aligned(one, "centre_of_mass")
    assert moved.sum() == pytest.approx(4) and moved[3:5, 3:5].sum() == pytest.approx(4)
    silent = np.zeros((8, 8), np.float32)
    assert aligned(silent, "centre_of_mass") is silent and aligned(one, "none") is one


def test_a_film_strip_has_all_groups_in_the_order_of_their_codes():
    codes = np.random.default_rng(0).random(100).astype(np.float32)
    rows = shown(codes, 40, 30, 8)
    assert [len(rows[name]) for name in ("a_high", "a_low", "b_high", "b_low", "third")] == [8] * 5
    film = codes[rows["film"]]
    assert (np.diff(film) < 0).all() and film[0] == codes.max() and film[-1] == codes.min()
    assert {*rows["third"]} == {*(70 + np.argsort(-codes[70:])[:8]).tolist()}
    assert not {*rows["a_high"]} & {*rows["a_low"]}
    few = shown(codes[:12], 10, 2, 8)
    assert len(few["a_low"]) == 2 and few["b_low"] == [] and len(few["film"]) == 12

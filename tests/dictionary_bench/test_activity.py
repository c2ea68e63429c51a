"""L0, dead and dense latents and their resamples, against counts over all tokens."""

import dataclasses

import numpy as np
from dictionary_bench.planted import planted

from saev.dictionary_bench.activity import activity
from saev.metrics.resampling import draws


def test_numbers_and_resamples_are_those_of_counting_all_firings():
    rng = np.random.default_rng(0)
    chance = np.concatenate([np.zeros(5), rng.uniform(0.001, 0.02, 40), rng.uniform(0.03, 0.4, 30), [1.0]])
    fires = rng.random((120, len(chance))) < chance  # images
    codes = planted(np.where(fires, rng.uniform(0.5, 2, fires.shape), 0))
    codes = dataclasses.replace(codes, active=rng.integers(1, 17, len(codes.active)).astype(np.int32))
    active = codes.matrix(codes.active.astype(np.float64)).toarray()
    tokens, drawn = codes.images.tokens, draws(120, 70)
    found = activity(codes, drawn)
    for column, counts in (("value", np.ones((120, 1))), ("draws", drawn)):
        firings, total = active.T @ counts, tokens @ counts
        expected = {
            "l0": firings.sum(0) / total,
            "dead": (firings == 0).mean(0),
            "dense_above_0.1": (firings > 0.1 * total).mean(0),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(
                getattr(found[name], column), values if column == "draws" else values[0], err_msg=name
            )
    assert (
        found["dead"].value >= 5 / len(chance) and found["dead"].draws.std() > 0 < found["dense_above_0.1"].draws.std()
    )
    np.testing.assert_allclose(found["l0"].units.mean(), found["l0"].value)


def test_without_resamples_there_are_none_and_silent_dictionaries_are_dead():
    codes = planted(np.zeros((8, 4)))
    found = activity(codes)
    assert found["dead"].value == 1 and found["l0"].value == 0 and not len(found["dead"].draws)
    assert activity(codes, draws(8, 10))["dead"].draws.tolist() == [1.0] * 10

"""Which rows a table compares with, and rows that differ by seed only."""

import pytest

from saev.saved import SavedDictionary
from saev.scoring.against import reference_rows, seed_rows

KINDS = {"topk": "sae", "random-0": "random_vectors", "random-1": "random_vectors"}


def seeds(**settings) -> dict:
    return {f"random-{seed}": {"seed": seed, **settings} for seed in (0, 1)}


def test_a_name_or_a_kind_names_the_reference():
    assert reference_rows("random-0", KINDS, {}) == ["random-0"]
    assert reference_rows("opk", KINDS, {}) == ["topk"]
    assert reference_rows("random_vectors", KINDS, seeds()) == ["random-0", "random-1"]


def test_an_unknown_row_is_an_error_that_offers_close_ones():
    with pytest.raises(ValueError, match=r"against=random_vecotrs is no row's name.*random_vectors"):
        reference_rows("random_vecotrs", KINDS, {})


def test_a_kind_of_several_settings_is_an_error():
    with pytest.raises(ValueError, match="random-0, random-1 are meant"):
        reference_rows("random_vectors", KINDS, {"random-0": {"d_sae": 8}, "random-1": {"d_sae": 16}})


def test_seeds_are_summed_up_and_compared_with_the_references_mean(tmp_path):
    saved = [
        SavedDictionary(f"{sae}-{seed}", tmp_path, {"n_latents": 4, "hyperparameters": {"sae": sae, "seed": seed}})
        for sae in ("topk", "relu")
        for seed in (0, 1)
    ]
    rows = [{"nmse": nmse} for nmse in (0.2, 0.4, 0.5, 0.5)]
    topk, relu = seed_rows(rows, saved, ["nmse"], ["relu-0", "relu-1"])
    assert topk["members"] == "topk-0, topk-1" and topk["n_seeds"] == 2
    assert [topk["nmse"], topk["nmse_std"], topk["diff_nmse"]] == pytest.approx([0.3, 0.2**0.5 / 10**0.5, -0.2])
    assert relu["nmse_std"] == 0 and relu["diff_nmse"] == 0

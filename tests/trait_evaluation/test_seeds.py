"""Dictionaries that differ by their seed only are summed up in `saev.traits`."""

import numpy as np
import polars as pl
import pytest
import torch
from trait_evaluation.sources.recorded import recorded

import saev
from saev.baselines.kmeans import KMeansDictionary
from saev.nn import Normaliser
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import Columns


def test_seeds_have_a_row_with_mean_and_spread(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"red": int(rng.random() < 0.5), "split": "train" if i < 40 else "test"} for i in range(60)]
    store = recorded(tmp_path / "data", rows)
    for seed in (0, 1):
        one = KMeansDictionary(Normaliser(torch.zeros(8), torch.ones(())), torch.randn(6, 8), "inverse")
        settings = {"baseline": "kmeans", "seed": seed}
        where = {"layer": 4, "token_roles": "patches"}
        saev.save_dictionary(one, tmp_path / "saes" / f"means{seed}", hyperparameters=settings, provenance=where)
    settings = TraitsSettings(
        split="split", baselines=(), channels=True, supervised=False, several=(), bootstrap=0, n_train=(40,), n_prototypes=(4,),
        seeds=(0,), against="channels",
    )  # fmt: skip
    source, out = Columns(columns=("red",)), tmp_path / "out"
    result = saev.traits(tmp_path, store, source, settings, directory=out, codes=tmp_path / "codes", device="cpu")
    assert result.seeds is not None
    row = result.seeds.row(0, named=True)
    full = result.results.filter(labels="true", n_latents=1, n_prototypes=6).filter(
        pl.col("method").str.starts_with("means")
    )
    assert row["members"] == "means0, means1" and row["n_seeds"] == 2 and row["layer"] == 4
    assert row["map"] == pytest.approx(full["map"].mean()) and row["map_std"] == pytest.approx(full["map"].std())
    assert pl.read_parquet(out / "seeds.parquet").equals(result.seeds)

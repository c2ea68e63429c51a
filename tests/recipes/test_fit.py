"""`fit` as a notebook calls it."""

import polars as pl
import pytest
import torch

import saev
from saev.baselines import PCA, KMeans
from saev.recipes.fit import fit
from saev.training.settings import FitSettings

SETTINGS = FitSettings(batch_size=50)


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr("saev.nn.centroids.ENOUGH", 1)  # no warning about the few points of the tiny recording


def test_baselines_are_fitted_saved_and_measured(tiny, tmp_path):
    baselines = {"kmeans": KMeans(8, passes=2), "pca": PCA(k=(1, 4))}
    fitted = fit(saev.ActivationStore(tiny), -1, baselines, settings=SETTINGS, directory=tmp_path / "run")
    assert fitted.results["member"].to_list() == ["kmeans", "pca,k=1", "pca,k=4"] == list(fitted.dictionaries)
    assert fitted.results.equals(pl.read_parquet(tmp_path / "run" / "results.parquet"))
    assert fitted.results.select("dataset", "layer", "tokens").row(0) == ("tiny", 2, "patches")
    x = torch.randn(9, 16)
    for name, dictionary in fitted.dictionaries.items():
        assert torch.equal(saev.load(tmp_path / "run" / "saes" / name).encode(x), dictionary.encode(x))
    again = fit(tiny, 2, {"kmeans": baselines["kmeans"]}, settings=SETTINGS, directory=tmp_path / "again")
    assert torch.equal(again.dictionaries["kmeans"].atoms, fitted.dictionaries["kmeans"].atoms)
    with pytest.raises(ValueError, match=r"other settings \(baselines.kmeans.n_latents: 8 there, 4 here\)"):
        fit(tiny, 2, {"kmeans": KMeans(4, passes=2)}, settings=SETTINGS, directory=tmp_path / "again")


def test_without_a_directory_the_run_goes_below_the_outputs(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path))
    assert tmp_path / "fit" in fit(tiny, 1, {"pca": PCA(k=(2,))}, settings=SETTINGS).directory.parents


def test_a_recording_of_less_than_a_batch_is_one_batch(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    baselines = {"kmeans": KMeans(8, passes=2), "pca": PCA(k=(2,))}
    small, whole = (
        fit(tiny, 1, baselines, settings=settings, directory=tmp_path / name)
        for name, settings in (("small", SETTINGS), ("whole", FitSettings()))
    )
    assert "training tokens, which are one batch" in caplog.text
    for name, dictionary in whole.dictionaries.items():
        torch.testing.assert_close(dictionary.atoms, small.dictionaries[name].atoms, rtol=1e-3, atol=1e-4)

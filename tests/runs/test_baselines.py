"""Fits that were measured on the tokens of a training run, and only these."""

import json
import os

import pytest

from saev.runs.baselines import fitted_baselines
from saev.runs.tables import write_table

ABOUT = {
    "dataset_fingerprint": "f", "layer": 8, "token_roles": "patches", "ignore_labels": [0],
    "held_out": {"fraction": 0.1, "group": None}, "normalise": "scalar", "tokens": 10,
}  # fmt: skip


def fit(run, rows, about=ABOUT, age=0):
    """A finished fit: `rows` are (member, settings, nmse)."""
    table = [
        {"member": name, **settings, "layer": about["layer"], "n_tokens": 100, "nmse": nmse}
        for name, settings, nmse in rows
    ]
    for name, settings, _ in rows:
        (run / "saes" / name).mkdir(parents=True)
        config = {"kind": settings["baseline"], "hyperparameters": settings, "provenance": about}
        (run / "saes" / name / "config.json").write_text(json.dumps(config))
    path = write_table(run, "results", table)
    os.utime(path, (1e9 - age, 1e9 - age))


def test_the_newest_fit_of_each_setting_counts(tmp_path):
    fit(
        tmp_path / "day" / "old",
        [("pca,k=1", {"baseline": "pca", "k": 1}, 0.9), ("pca,k=4", {"baseline": "pca", "k": 4}, 0.6)],
        age=9,
    )
    fit(tmp_path / "day" / "sweep" / "job", [("pca,k=1", {"baseline": "pca", "k": 1}, 0.8)])
    fit(tmp_path / "day" / "kmeans", [("kmeans", {"baseline": "kmeans"}, 0.7)])
    rows = fitted_baselines(ABOUT, 100.0, tmp_path)
    assert sorted((row["nmse"], row["run"]) for row in rows) == [
        (0.6, str(tmp_path / "day" / "old")), (0.7, str(tmp_path / "day" / "kmeans")), (0.8, str(tmp_path / "day" / "sweep" / "job")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"dataset_fingerprint": "g"},
        {"layer": 9},
        {"token_roles": "cls"},
        {"ignore_labels": []},
        {"held_out": {"fraction": 0.2}},
    ],
)
def test_fits_on_other_tokens_are_left_out(other, tmp_path):
    fit(tmp_path / "run", [("kmeans", {"baseline": "kmeans"}, 0.7)], {**ABOUT, **other})
    assert fitted_baselines(ABOUT, 100, tmp_path) == []
    assert len(fitted_baselines({**ABOUT, **other}, 100, tmp_path)) == 1


def test_unfinished_fits_and_other_counts_of_tokens_are_left_out(tmp_path):
    fit(tmp_path / "run", [("kmeans", {"baseline": "kmeans"}, 0.7)])
    assert fitted_baselines(ABOUT, 99, tmp_path) == []
    assert fitted_baselines({**ABOUT, "git_commit": "x", "held_out": {"group": None, "fraction": 0.1}}, 100, tmp_path)
    (tmp_path / "run" / "results.parquet").unlink()
    assert fitted_baselines(ABOUT, 100, tmp_path) == fitted_baselines(ABOUT, 100, tmp_path / "none") == []

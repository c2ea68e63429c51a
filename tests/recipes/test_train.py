"""`saev.train` from Python gives what the command gives, and needs no configuration."""

import dataclasses

import polars as pl
import pytest
import torch
from conftest import TINY

import saev
from saev.training.settings import TrainSettings

SETTINGS = TrainSettings(batch_size=64, warmup=0, log_every=1, val_every=1, report=False)
BANK = 'variants=[["sae=batchtopk","k=4"],["sae=relu","sparsity=1e-2"]]'


def members():
    auxk = saev.AuxK(dead_tokens=64)
    return [
        saev.Member(saev.BatchTopK(4), "sae=batchtopk,k=4", auxk=auxk, d_sae=64),
        saev.Member(saev.ReLU(1e-2), "sae=relu,sparsity=1e-2", auxk=auxk, d_sae=64),
    ]


@pytest.mark.slow
def test_a_call_gives_the_dictionaries_of_the_command(tiny, tmp_path, cli):
    bank = saev.train(tiny, 1, members(), n_tokens=640, settings=SETTINGS, directory=tmp_path / "called")
    shown = cli("train", "experiment=none", f"dataset={tiny}", "layer=1", BANK, *TINY, "n_tokens=640")
    assert shown.code == 0, shown.text
    (run,) = (tmp_path / "outputs" / "train").glob("*/*")
    command = pl.read_parquet(run / "results.parquet")
    same = [name for name in command.columns if name not in ("tokens_per_s", "mb_per_s", "member_ms")]
    assert bank.results.select(same).equals(command.select(same))
    assert pl.read_parquet(bank.directory / "results.parquet").equals(bank.results)
    for saved in bank.dictionaries:
        called, typed = saved.load("cpu").state_dict(), saev.load(run / "saes" / saved.name).state_dict()
        assert all(torch.equal(called[key], typed[key]) for key in typed)


def test_the_default_directory_is_a_new_run_below_outputs(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    store = saev.ActivationStore(tiny)
    runs = [saev.train(store, -1, members()[:1], n_tokens=128, settings=SETTINGS) for _ in range(2)]
    assert len({run.directory for run in runs}) == 2
    assert all(run.directory.parents[2] == tmp_path / "outputs" for run in runs)
    assert runs[0].results.select("dataset", "layer", "tokens").row(0) == ("tiny", 2, "patches")


@pytest.mark.slow
def test_the_same_call_in_the_same_directory_continues_and_another_one_is_refused(tiny, tmp_path):
    first = saev.train(tiny, 1, members(), n_tokens=640, settings=SETTINGS, directory=tmp_path / "run")
    again = saev.train(tiny, 1, members(), n_tokens=640, settings=SETTINGS, directory=tmp_path / "run")
    same = [name for name in first.results.columns if name not in ("tokens_per_s", "mb_per_s", "member_ms")]
    assert again.results.select(same).equals(first.results.select(same))
    other = [dataclasses.replace(member, objective=saev.Matryoshka((0.25, 0.75))) for member in members()]
    with pytest.raises(ValueError, match=r"members"):
        saev.train(tiny, 1, other, n_tokens=640, settings=SETTINGS, directory=tmp_path / "run")
    with pytest.raises(ValueError, match=r"layer: 1 there, 2 here"):
        saev.train(tiny, 2, members(), n_tokens=640, settings=SETTINGS, directory=tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 9}, "layer=9"),
        ({"settings": TrainSettings(batch_size=100_000)}, "batch_size=100000 is larger than"),
        ({"members": []}, "members: must hold at least one saev.Member"),
        ({"members": [saev.Member(saev.TopK(65), d_sae=64)]}, "k=65 is more than d_sae=64"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(arguments, message, tiny, tmp_path):
    call = {"layer": 1, "members": members(), "settings": SETTINGS, "directory": tmp_path / "run", **arguments}
    with pytest.raises(ValueError, match=message):
        saev.train(tiny, **call)


@pytest.mark.slow
def test_a_recording_without_a_grid_gives_a_report_without_heat_maps(tmp_path):
    acts = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    recording = saev.store_activations(acts, tmp_path / "recording", layer=8)
    settings = TrainSettings(batch_size=64, warmup=0, log_every=2, val_every=2)
    bank = saev.train(recording, 8, members()[:1], n_tokens=640, settings=settings, directory=tmp_path / "run")
    assert "report" in bank.files and bank.files["report"].stat().st_size > 10_000
    assert saev.evaluate(bank.dictionaries, recording).results["nmse"].is_finite().all()


def test_a_datamodule_must_agree_with_the_arguments_beside_it(tiny, tmp_path):
    from datamodules import ActivationDataModule

    data = ActivationDataModule(str(tiny), 1, 64, n_tokens=128)
    for arguments, message in (
        ({"layer": 2}, "layer=2: the datamodule has layer=1"),
        ({"n_tokens": 64}, "n_tokens=64"),
    ):
        call = {"layer": 1, "members": members(), "settings": SETTINGS, "directory": tmp_path / "run", **arguments}
        with pytest.raises(ValueError, match=message):
            saev.train(data, **call)

"""What is whole passes; each fault is found, named with its remedy, and ends in exit code 1."""

import json
import shutil

import polars as pl
import pytest
import torch
from conftest import TINY
from recordings import record

from saev.checkpoint import save_dictionary
from saev.nn import SparseAutoencoder, TopK
from saev.runs.diagnosis import check_path
from saev.runs.directory import checkpoint_of
from saev.stages import doctor


@pytest.fixture
def data(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "data")


@pytest.fixture
def saved(tmp_path):
    return save_dictionary(SparseAutoencoder(8, 16, TopK(2)), tmp_path / "k=2", provenance={"dataset": "x", "layer": 3})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return record(tmp_path_factory.mktemp("doctor") / "labelled", labels=True)


def faults(path):
    return [finding for finding in check_path(path) if finding.fault]


def test_a_sound_environment_and_recording(data, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("SAEV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 0)
    assert doctor.run([str(data)]) == 0
    shown = capsys.readouterr().out
    for text in ("Python", "packages", "GPU", "CPU cores", "outputs", "cache", "configuration", "no faults"):
        assert text in shown
    assert "layers 1, 2; 40 images, 680 tokens of 16 float32 per layer" in shown and "6 shards as recorded" in shown


def test_a_flipped_byte(data, capsys):
    path = data / "layer-02" / "000001.tar"
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    (found,) = faults(data)
    assert "layer-02/000001.tar" in found.found and "sha256" in found.found and "record again" in found.remedy
    assert doctor.run([str(data)]) == 1 and "1 fault" in capsys.readouterr().out


def test_a_missing_shard(data):
    (data / "layer-01" / "000002.tar").unlink()
    assert [found.found for found in faults(data)] == ["layer-01/000002.tar is missing"]


@pytest.mark.parametrize("file", ["examples.parquet", "layer-01/stats.safetensors"])
def test_lost_and_damaged_tables(data, file):
    (data / file).write_bytes((data / file).read_bytes()[:20])
    (damaged,) = faults(data)
    (data / file).unlink()
    (lost,) = faults(data)
    assert damaged.remedy and lost.found == f"{file} is missing" and "record again" in lost.remedy


def test_an_incomplete_recording_says_how_to_resume(data):
    manifest = data / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"complete": False}))
    (found,) = faults(data)
    assert "0 of 3 shards recorded" in found.found and "`saev record`" in found.remedy


def test_a_manifest_that_is_none(data):
    (data / "manifest.json").write_text("{")
    (found,) = faults(data)
    assert "manifest.json" in found.found and found.remedy


def test_unreadable_images_are_reported_and_no_fault(tmp_path):
    found = check_path(record(tmp_path / "data", skipped=(7, 9)))
    assert not any(f.fault for f in found) and "2 images could not be read, the first: 7.jpg" in found[-1].found


def test_a_dictionary(saved):
    (found,) = check_path(saved)
    assert found.found == "topk, 16 latents of 8 dimensions; trained on x, layer 3" and not found.fault


@pytest.mark.parametrize("damage", ["cut", "no config", "no weights", "other weights", "nan"])
def test_a_damaged_dictionary(saved, damage):
    weights, config = saved / "dictionary.safetensors", saved / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "no config":
        config.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "other weights":
        config.write_text(config.read_text().replace('"n_latents": 16', '"n_latents": 32'))
    else:
        sae = SparseAutoencoder(8, 16, TopK(2))
        torch.nn.init.constant_(sae.w_dec, torch.nan)
        save_dictionary(sae, saved)
    (found,) = faults(saved)
    assert found.found and found.remedy


def test_runs_finished_resumable_lost_and_with_a_failed_member(tmp_path, saved):
    finished, resumable, lost = (tmp_path / "sweep" / name for name in "012")
    for run in (finished, resumable, lost):
        (run / ".hydra").mkdir(parents=True)
    shutil.copytree(saved, finished / "saes" / "k=2")
    shutil.copytree(saved, finished / "saes" / "k=4")
    table = pl.DataFrame({"member": ["k=2", "k=4"], "failed": [False, False]})
    table.write_parquet(finished / "results.parquet")
    (resumable / "checkpoints").mkdir()
    torch.save({"step": 1}, resumable / "checkpoints" / "last.ckpt")
    found = {f.what: f for f in check_path(tmp_path / "sweep")}
    assert found["run 0"].found == "finished: 2 dictionaries" and not found["run 0"].fault
    assert found["run 1"].remedy == f"resume: saev train ckpt_path={resumable}" and not found["run 1"].fault
    assert found["run 2"].fault and len(found) == 3
    (lost / "error.txt").write_text("ValueError: k=5000 is more than d_sae=3072\n")
    assert any("k=5000 is more" in f.found for f in check_path(lost))

    table.with_columns(failed=pl.Series([True, False])).write_parquet(finished / "results.parquet")
    (finished / "saes" / "k=4" / "dictionary.safetensors").unlink()
    assert [f.what for f in faults(finished)] == ["run 0: k=2", "run 0: k=4"]
    (finished / "results.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in faults(finished)[0].found


def test_other_paths(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no such directory" in faults(tmp_path / "nowhere")[0].found
    (unknown,) = check_path(tmp_path / "empty")
    assert "unknown" in unknown.found and "left alone" in unknown.found and not unknown.fault
    assert doctor.run([str(tmp_path / "nowhere")]) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_checkpoint(tmp_path, damage):
    """Guards against a traceback without a file name when the run is resumed."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"weights": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    assert not faults(tmp_path / "run") and checkpoint_of(tmp_path / "run", {}) == path
    flipped = whole.replace(torch.tensor(500.0).numpy().tobytes(), b"abcd", 1)
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "flipped": flipped}[damage])
    (found,) = faults(tmp_path / "run")
    assert "checkpoint" in found.found and "delete it" in found.remedy
    with pytest.raises(ValueError, match=r"last\.ckpt: the checkpoint .*; restore it from a copy, or delete it"):
        checkpoint_of(tmp_path / "run", {})


@pytest.mark.slow
def test_every_kind_of_directory_that_a_command_leaves(cli, labelled, tmp_path):
    """Guards against sound results that are called faults, with the advice to delete them, and against tracebacks."""
    where, outputs = (f"dataset={labelled}", "layer=1"), tmp_path / "outputs"
    bank = 'variants=[["sae=batchtopk","k=4"],["sae=relu","sparsity=1e-2"]]'
    assert cli("train", "experiment=none", bank, *TINY, *where).code == 0
    (run,) = outputs.glob("train/*/*")
    assert cli("fit", *where, "batch_size=64", "baseline=pca", "baseline.k=[2]").code == 0
    assert cli("evaluate", str(run), f"dataset={labelled}").code == 0
    assert cli("encode", str(run), f"dataset={labelled}").code == 0
    assert cli("show", str(run), f"dataset={labelled}").code == 0
    assert cli("probe", str(run), f"dataset={labelled}").code == 0
    shown = [f for f in check_path(outputs) if not f.fault]
    assert not faults(outputs), faults(outputs)
    assert {f.what.split()[0] for f in shown} == {"train", "fit", "evaluate", "encode", "codes", "show", "probe"}
    refused = cli("evaluate", str(run), "batch_size=-1")
    assert refused.code == 1 and len(list(outputs.glob("evaluate/*/*"))) == 1, "a refused command leaves no folder"


def test_packages_in_another_version_or_missing(monkeypatch):
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda name: ["torch>=99", "no-such-package", "numpy<1; sys_platform == 'none'"]
    )
    found = list(doctor.packages())
    assert [(f.what, f.fault) for f in found] == [("torch", True), ("no-such-package", True), ("packages", False)]
    assert ">=99 is required" in found[0].found and found[0].remedy == "uv sync"


def test_outputs_on_a_full_disk_or_below_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert doctor.disk(tmp_path / "file" / "outputs").fault and not doctor.disk(
        tmp_path / "new" / "outputs"
    ).found.startswith("0")
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    assert doctor.disk(tmp_path).fault and "SAEV_OUTPUTS" in doctor.disk(tmp_path).remedy


def test_codes_are_verified(tiny, tmp_path):
    """Guards against a directory of codes that is taken for a damaged recording."""
    from codes.dictionaries import sae
    from codes.test_encoding import encoded, selection

    directory = encoded(tmp_path / "codes", selection(tiny), sae("batchtopk")).root
    (finding,) = check_path(directory)
    assert not finding.fault and "640 tokens" in finding.found
    next(directory.rglob("*values*.npy")).write_bytes(b"")
    assert [finding.fault for finding in check_path(directory)] == [True]


@pytest.mark.parametrize(("work", "said"), [(True, "compiled and checked"), (False, "not used")])
def test_it_says_whether_the_kernels_work_where_there_is_a_gpu(monkeypatch, work, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("saev.ops.gpu.kernels", lambda device: work)
    (finding,) = doctor.kernels()
    assert said in finding.found and not finding.fault

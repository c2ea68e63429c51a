"""What a recording refuses before it starts, and how it is named."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from vits.micro_recordings import contents, recording

from saev.images import FolderImages
from saev.vits import MicroVit, RecordSettings, record, recording_plan


def test_a_complete_recording_is_returned_at_once(photos, tmp_path, monkeypatch):
    directory = recording(photos, tmp_path).run(False)
    before = contents(directory)
    monkeypatch.setattr(MicroVit, "load", None)
    again = recording(photos, tmp_path, batch_size=5)
    assert again.recorded() and again.run(False) == directory
    assert contents(directory) == before


def test_the_directory_is_named_by_meaning_alone(photos, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    base = recording(photos, tmp_path).directory()
    assert base.parent == tmp_path and base.name.startswith("birds-micro-") and len(base.name.rsplit("-", 1)[1]) == 8
    same = [
        recording(moved, tmp_path),
        recording(photos, tmp_path, layers=[3, 1], batch_size=9, n_workers=1, part="1/2"),
    ]
    assert {r.directory() for r in same} == {base}
    changes = [
        {"layers": [1]},
        {"layers": 1, "hook": "mlp"},
        {"tokens": ["cls"]},
        {"dtype": "float32"},
        {"order": "sorted"},
        {"seed": 1},
        {"vit": MicroVit(seed=1)},
    ]
    names = [recording(photos, tmp_path, **change).directory().name for change in changes]
    assert len({base.name, *names}) == len(changes) + 1
    (moved / "owl" / "new.png").write_bytes((moved / "owl" / "01.png").read_bytes())
    assert recording(moved, tmp_path).directory() != base, "another image"


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"layers": [4]}, r"layer=4 is out of range: vit=micro has 4 layers"),
        ({"layers": []}, r"layer is not set"),
        ({"tokens": ["registers"]}, r"record\.tokens=\[registers\]: vit=micro has cls, patches"),
        ({"tokens": []}, r"record\.tokens=\[\]"),
        ({"hook": "middle"}, r"record\.hook=middle.*resid_post"),
        ({"dtype": "float64"}, r"record\.dtype=float64.*float16, float32 or int8"),
        ({"order": "random"}, r"record\.order=random.*shuffled"),
        ({"on_error": "ignore"}, r"record\.on_error=ignore.*skip or stop"),
        ({"autocast": True}, r"record\.autocast=true.*bfloat16"),
        ({"part": "3/3"}, r"record\.part=3/3.*0/8"),
        ({"part": "x"}, r"record\.part=x"),
        ({"batch_size": 0}, r"record\.batch_size=0"),
        ({"images": FolderImages(root="/nowhere")}, r"images\.root=/nowhere is not a folder"),
    ],
)
def test_check_names_key_value_and_remedy(photos, tmp_path, knobs, says):
    with pytest.raises(ValueError, match=says):
        recording(photos, tmp_path / "acts", **knobs).check()
    with pytest.raises(ValueError, match=says):
        recording(photos, tmp_path / "acts", **knobs).run(False)
    assert not list((tmp_path / "acts").rglob("*.tar"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_named(photos, tmp_path):
    with pytest.raises(ValueError, match=r"record\.device=cuda.*record\.device=cpu"):
        recording(photos, tmp_path, device="cuda").check()


def test_missing_images_and_weights_are_named_at_once(tmp_path):
    from saev.vits import TimmVit

    vit = TimmVit(name="dinov3", arch="vit_small_patch16_dinov3.lvd1689m", checkpoint="/nowhere.pth")
    with pytest.raises(ValueError, match=r"(?s)vit\.checkpoint=/nowhere\.pth.*images\.root=/nothing"):
        recording(Path("/nothing"), tmp_path, vit=vit).run(False)


def test_a_disk_that_is_too_small_is_refused_before_the_start(photos, tmp_path, monkeypatch):
    needed = recording(photos, tmp_path).plan.n_bytes
    disk = {"free": needed - 1}
    monkeypatch.setattr(
        recording_plan.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, disk["free"])
    )
    with pytest.raises(ValueError, match=r"record\.root=.* GB free.*record\.dtype=float16"):
        recording(photos, tmp_path).run(False)
    disk["free"] = needed
    directory = recording(photos, tmp_path).run(False)
    stored = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    assert stored < 1.5 * needed and needed < 1.5 * stored, "the estimate is near the truth"


def test_an_output_that_cannot_be_written_is_refused(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"record\.root=.*file.* cannot be written"):
        recording(photos, tmp_path / "file" / "acts").run(False)


def test_the_configuration_has_the_settings_and_their_defaults():
    conf = yaml.safe_load((Path(__file__).parents[2] / "conf" / "record" / "default.yaml").read_text())
    settings = {key: value for key, value in conf.items() if "${" not in str(value) and not key.startswith("_")}
    assert settings == dataclasses.asdict(RecordSettings()) | {"tokens": ["patches"]}


def test_record_returns_the_opened_recording(photos, tmp_path):
    store = record(FolderImages(photos), MicroVit(), -1, root=tmp_path, progress=False, dtype="float32", device="cpu")
    assert store.layers == (3,) and store.manifest.dtype == "float32" and store.read(3, 0).shape == (16, 32)
    assert record(FolderImages(photos), MicroVit(), [3], root=tmp_path, dtype="float32").root == store.root
    with pytest.raises(ValueError, match=r"record\.dtype=float: choose float16, float32 or int8"):
        record(FolderImages(photos), MicroVit(), 3, root=tmp_path, dtype="float")


def test_a_recording_without_a_root_lies_where_evaluation_looks(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "all"))
    store = record(FolderImages(photos), MicroVit(), 3, progress=False, device="cpu")
    assert Path(store.root).parent == tmp_path / "all" / "activations"

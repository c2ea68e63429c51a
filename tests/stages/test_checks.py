"""Nonsense is refused by name before anything slow starts, and settings without effect are said."""

import pytest
from conftest import TINY, topk_run

WRONG = {
    "lr=-1": "lr=-1.0: must be above 0",
    "clip=0": "clip=0.0: must be above 0 .clip=1e9: no clipping.",
    "n_tokens=-5": "n_tokens=-5: .* at least 1",
    "d_sae=0": "d_sae=0: .* at least 1",
    "decay=2": "decay=2.0: must be at most 1",
    "log_every=0": "log_every=0: .* at least 1",
    "normalise=foo": "normalise=foo: choose none, scalar or standardise",
    "init=foo": "init=foo: choose data, tokens, random, kmeans or archetypal",
    "tokens=foo": "tokens=foo: choose patches, cls, special or all",
    "trainer=gpu": "trainer.accelerator=gpu: this machine has no CUDA GPU; use trainer=cpu",
    "trainer.devices=2": "trainer.devices=2: several processes need trainer=ddp",
    "trainer.devices=auto": "trainer.devices=auto: must be the number of processes",
    "datamodule.parts=65": "batch_size=64: must be at least 65",
    "expansion=2": "expansion=2 has no effect beside d_sae=64: drop one of them",
    "l0_target=3": "l0_target=3 has no effect as sae=topk has no l0_target: drop it, or use sae=relu, gated or jumprelu",
}


@pytest.mark.parametrize("override", WRONG)
def test_nonsense_is_refused_by_name(override, cli, tiny):
    import re

    import torch

    if override == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    shown = cli("train", "experiment=none", f"dataset={tiny}", "layer=1", *TINY, override)
    assert shown.code == 1 and re.search(WRONG[override], shown.text), shown.text


RECORDED = ("experiment=none", "vit=micro", "images=folder", "layer=1", *TINY, "batch_size=8")


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 9, 200 - 30 * i)).save(tmp_path / f"{i}.png")
    return f"images.root={tmp_path}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokens=cls"], "record.tokens=[cls,patches]"),
        (["batch_size=1000"], "batch_size=1000 is larger than the 96 tokens of 6 images"),
        (["sae=topk", "k=65"], "k=65 is more than d_sae=64"),
        (["layer=9"], "9"),
    ],
)
def test_what_does_not_fit_is_found_before_recording(overrides, message, cli, photos, tmp_path):
    shown = cli("train", *RECORDED, photos, *overrides)
    assert shown.code == 1 and message in shown.text, shown.text
    assert not list((tmp_path / "outputs").rglob("manifest.json"))


def test_negative_layers_count_from_the_last_block(cli, photos, tmp_path):
    shown = cli("train", *RECORDED, photos, "layer=-2", "n_tokens=16")
    assert shown.code == 0, shown.text
    assert "layer 2, d_model 32" in shown.text


@pytest.mark.slow
def test_a_recording_with_more_layers_is_used(cli, photos, tmp_path):
    shown = cli("record", "vit=micro", "images=folder", photos, "layer=[1,2]", f"paths.outputs={tmp_path}/outputs")
    assert shown.code == 0, shown.text
    shown = cli("train", *RECORDED, photos, "n_tokens=16")
    assert shown.code == 0, shown.text
    assert len(list((tmp_path / "outputs" / "activations").glob("*/manifest.json"))) == 1


def test_one_folder_holds_recordings_and_runs(cli, photos, tmp_path):
    shown = cli("record", "vit=micro", "images=folder", photos, "layer=1", f"paths.outputs={tmp_path}/else where")
    assert shown.code == 0, shown.text
    assert sorted(path.name for path in (tmp_path / "else where").iterdir()) == ["activations", "record"]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("value", ["", "/a,/b", "${oc.env:HOME}/a", r"/a\,b"])
def test_outputs_are_one_folder(cli, value):
    shown = cli("record", f"++paths.outputs={value}")
    assert shown.code == 1 and "must be one folder" in shown.err


def test_settings_without_effect_are_reported(cli, tiny):
    shown = cli(
        "train", "experiment=none", f"dataset={tiny}", "layer=1", *TINY, "vit=micro", "dead_tokens=1000", "warmup=9"
    )
    assert shown.code == 0, shown.text
    assert "warmup=9 steps, the run has 2: the learning rate never arrives; set warmup=0.05" in shown.text
    assert "vit=micro: no effect beside dataset=" in shown.text and "dead_tokens is not below n_tokens" in shown.text
    assert (
        "n_tokens=128 makes 2 steps of batch_size=64, too few to train: set batch_size=1, or n_tokens=6400"
        in shown.text
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["datamodule.parts=3"], "datamodule.parts=3: must be a multiple of 2"),
        (["trainer.strategy.split=members"], "split=members: 2 processes (trainer.devices) for 1 SAEs"),
    ],
)
def test_what_cannot_be_divided_is_found_before_recording(overrides, message, cli, photos, tmp_path):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu")
    shown = cli("train", *(o for o in RECORDED if o != "trainer=cpu"), photos, *ddp, *overrides)
    assert shown.code == 1 and message in shown.text, shown.text
    assert not list((tmp_path / "outputs").rglob("manifest.json"))


@pytest.mark.slow
def test_a_run_without_n_tokens_takes_ten_epochs_of_little_data(cli, tiny, tmp_path):
    """Guards against 100 M tokens, thousands of epochs, of a few photos: 36 images of 16 patches, ten times."""
    short = [item for item in topk_run(tiny, "k=4", "val_every=100") if not item.startswith("n_tokens")]
    shown = cli(*short)
    assert shown.code == 0 and "for 90 steps of 64 tokens: 10.00 epochs of 576 tokens from 36 images" in shown.text


@pytest.mark.parametrize("key", ["batch_size", "n_tokens"])
def test_a_size_that_the_datamodule_alone_is_given_is_refused(cli, tiny, key):
    shown = cli("train", "experiment=none", f"dataset={tiny}", "layer=1", *TINY, f"datamodule.{key}=32")
    assert shown.code == 1 and f"datamodule.{key}=32 has no effect: set {key}=32" in shown.err

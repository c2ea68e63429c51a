"""`datamodule.reader=live` on the command line: nothing is recorded, an interrupted run ends with the same bits."""

import signal

import pytest
import torch
from conftest import TINY

import saev

LIVE = ("train", "experiment=none", "vit=micro", "images=folder", "layer=1", "datamodule.reader=live", "record.device=cpu",
        "sae=topk", "k=4", *TINY, "batch_size=24", "n_tokens=640", "val_every=5", "datamodule.pool=150")  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i:02}.png")
    return f"images.root={tmp_path}/photos"


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(cli, photos, tmp_path, monkeypatch):
    """With four windows an epoch that cut images, and an interruption within a window of a later epoch."""
    from callbacks import Checkpoint

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    done = cli(*LIVE, photos, f"hydra.run.dir={straight}", "report=true")
    assert done.code == 0, done.text
    assert "activations: computed by micro, not stored; mixed in two windows of" in done.text
    assert "No latents are shown" in (straight / "report.html").read_text()

    def press(self, trainer, *_):
        if trainer.global_step == 17:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "on_train_batch_start", press)
    assert cli(*LIVE, photos, f"hydra.run.dir={broken}", "report=true").code == 128 + signal.SIGINT
    monkeypatch.undo()
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    done = cli(*LIVE, photos, f"hydra.run.dir={broken}", "report=true")
    assert done.code == 0 and "resuming from" in done.text, done.text
    one, other = (saev.load(run / "saes" / "sae=topk").state_dict() for run in (straight, broken))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not (tmp_path / "outputs" / "activations").exists()

    shown = cli("evaluate", str(straight))
    assert shown.code == 1 and "its activations were not stored: record them" in shown.err
    recorded = cli("record", "vit=micro", "images=folder", photos, "layer=1", f"paths.outputs={tmp_path}/outputs")
    assert recorded.code == 0, recorded.text
    shown = cli("evaluate", str(straight))  # on the images that were held out, without naming the recording
    assert shown.code == 0 and "0 images" not in shown.text, shown.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset=/x",), "datamodule.reader=live: dataset=/x is recorded already"),
        (("probe.dataset=train",), "probe.dataset=train: with datamodule.reader=live no labels are stored"),
        (("record.dtype=int8",), "record.dtype=int8 saves nothing"),
    ],
)
def test_what_does_not_go_together_is_refused(cli, photos, words, message):
    shown = cli(*LIVE, photos, *words)
    assert shown.code == 1 and message in shown.err, shown.text


def test_baselines_are_fitted_to_recordings(cli, photos):
    shown = cli("fit", "vit=micro", "images=folder", photos, "layer=1", "datamodule.reader=live")
    assert shown.code == 1 and "baselines read the activations several times" in shown.err

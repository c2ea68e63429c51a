"""The supervised bound as the stage calls it: rows, maps, files, and going on with what was interrupted."""

import json
import signal

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, jaccard_score
from training.probes import N_IMAGES, dictionary, image, record_classes

from saev.metrics.resampling import draws
from saev.recipes import linear_probe
from saev.recipes.linear_probe import fit_linear
from saev.shards import ActivationStore
from saev.training.linear.settings import LinearProbeSettings

OWN = {"batch_size": 48, "max_epochs": 4, "lrs": (1e-2, 0.1), "weight_decays": (1e-2,)}
OWN |= {"inputs": ("all",), "trainer": {"accelerator": "cpu", "devices": 1}}
IMAGES = np.arange(10, N_IMAGES), np.arange(10)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ActivationStore(record_classes(tmp_path_factory.mktemp("linear") / "data"))


def fit(store, directory, masks=None, **own):
    settings = LinearProbeSettings(**OWN | own)
    return fit_linear(settings, store, 1, IMAGES, {"codes": dictionary()}, directory, masks=masks)


@pytest.fixture(scope="module")
def rows(store, tmp_path_factory):
    directory = tmp_path_factory.mktemp("linear") / "fit"
    return fit(store, directory), directory


def test_there_is_a_row_for_each_probe_and_one_is_chosen_for_each_input(rows):
    found, directory = rows
    assert [(row["input"], row["lr"]) for row in found] == [
        ("raw", 0.01),
        ("raw", 0.1),
        ("codes", 0.01),
        ("codes", 0.1),
    ]
    for name in ("raw", "codes"):
        own = [row for row in found if row["input"] == name]
        assert [row["chosen"] for row in own] == [
            row["selection_loss"] == min(r["selection_loss"] for r in own) for row in own
        ]
    assert all(len(row["ap"]) == 3 and row["epochs"] <= 4 and not row["failed"] for row in found)
    assert json.loads((directory / "linear.json").read_text())["rows"] == found


def test_a_kept_probe_gives_the_numbers_of_its_row(rows):
    """From the files alone: parameters, the scale of activations, and which label is which class."""
    found, directory = rows
    tensors = load_file(directory / "linear" / "raw" / "probe.safetensors")
    classes = json.loads((directory / "linear" / "raw" / "classes.json").read_text())
    assert classes == {"ids": [0, 1, 2], "names": ["sky", "sea", "sun"]}
    row = next(row for row in found if row["chosen"] and row["input"] == "raw")
    acts, labels = (np.concatenate(p) for p in zip(*(image(e) for e in IMAGES[1]), strict=True))
    logits = (torch.from_numpy(acts) - tensors["mean"]) / tensors["scale"] @ tensors["weight"] + tensors["bias"]
    kept = labels < 65535
    assert row["accuracy"] == pytest.approx((logits.argmax(1).numpy()[kept] == labels[kept]).mean(), abs=1e-12)
    # maps: 12 x 8 pixels, patches of 3 x 2
    predicted, true = [], []
    for e, own in zip(IMAGES[1], logits.split(16), strict=True):
        grid = own.T.reshape(1, 3, 4, 4)
        predicted.append(torch.nn.functional.interpolate(grid, (12, 8), mode="bilinear")[0].argmax(0).numpy())
        true.append(image(e)[1].reshape(4, 4).repeat(3, 0).repeat(2, 1))
    predicted, true = np.stack(predicted), np.stack(true)
    seen = true < 65535
    assert row["map_target"] == "patch labels" and row["map_pixels"] == seen.sum()
    assert row["map_miou"] == pytest.approx(jaccard_score(true[seen], predicted[seen], average="macro"), rel=1e-9)


def test_masks_are_what_maps_are_compared_with_where_there_are_any(store, tmp_path):
    def masks(example):
        return None if example == 3 else np.full((20, 30), 2 if example else 77)  # 77 is no class

    found = fit(store, tmp_path / "fit", masks, inputs=("raw",), lrs=(1e-2,))
    assert found[0]["map_target"] == "masks" and found[0]["map_size"] is None
    assert found[0]["map_pixels"] == 8 * 20 * 30
    sized = fit(store, tmp_path / "sized", masks, inputs=("raw",), lrs=(1e-2,), map_size=(6, 6))
    assert sized[0]["map_pixels"] == 8 * 36 and sized[0]["map_size"] == [6, 6]


def test_what_has_finished_is_read_and_other_settings_are_refused(rows, store, monkeypatch):
    found, directory = rows
    with pytest.raises(ValueError, match=r"linear\.json has the results of other settings \(patience\)"):
        fit(store, directory, patience=1)
    monkeypatch.setattr(linear_probe, "build_trainer", None)  # nothing is fitted
    assert fit(store, directory) == found


@pytest.mark.slow
def test_an_interrupted_fit_resumes_to_the_same_rows(rows, store, tmp_path, monkeypatch):
    class Press(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 14:
                signal.raise_signal(signal.SIGTERM)

    make = linear_probe.build_trainer

    def pressed(*args):
        trainer = make(*args)
        trainer.callbacks.insert(0, Press())
        return trainer

    monkeypatch.setattr(linear_probe, "build_trainer", pressed)
    with pytest.raises(SystemExit) as left:
        fit(store, tmp_path / "fit")
    assert left.value.code == 128 + signal.SIGTERM
    monkeypatch.setattr(linear_probe, "build_trainer", make)
    assert not (tmp_path / "fit" / "linear.json").exists()
    assert fit(store, tmp_path / "fit") == rows[0]


def test_wrong_settings_are_named(store, tmp_path):
    for own, message in (
        ({"max_epochs": 0}, r"linear_probe\.max_epochs=0: must be at least 1"),
        ({"inputs": ("pca",)}, r"linear_probe\.inputs=\['pca'\]: there is no pca: choose of \['raw', 'all', 'codes'\]"),
        ({"weights": "even"}, r"linear_probe\.weights=even: choose none or balanced"),
        ({"lrs": (0.0,)}, r"linear_probe\.lrs=\[0\.0\]: must be above 0"),
        ({"weight_decays": ()}, r"linear_probe\.weight_decays=\[\]: give at least one number"),
        ({"patience": 0}, r"linear_probe\.patience=0: must be at least 1"),
        ({"map_size": (6,)}, r"linear_probe\.map_size=\[6\]: give \[height, width\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(store, tmp_path / "wrong", **own)


@pytest.mark.slow
def test_nothing_is_chosen_by_the_images_that_are_reported(store, tmp_path, rows):
    settings = LinearProbeSettings(**OWN)
    others = fit_linear(settings, store, 1, (IMAGES[0], np.arange(3, 6)), {"codes": dictionary()}, tmp_path / "others")
    for one, other in zip(rows[0], others, strict=True):
        same = ("input", "lr", "epochs", "best_epoch", "chosen", "selection_loss")
        assert {key: one[key] for key in same} == {key: other[key] for key in same} and one["ce"] != other["ce"]
    fitted, left_out = linear_probe.selection_split(store, IMAGES[0], 0)
    assert len(left_out) == 6 and {*fitted, *left_out} == {*IMAGES[0]} and not {*fitted} & {*left_out}


def test_images_of_a_group_are_on_one_side_of_the_inner_split(store, tmp_path, monkeypatch):
    seen = []
    make = linear_probe.build

    def spy(settings, data, members):
        seen.append((data.train_examples, data.val_examples))
        return make(settings, data, members)

    monkeypatch.setattr(linear_probe, "build", spy)
    settings = LinearProbeSettings(**OWN | {"inputs": ("raw",), "lrs": (1e-2,), "max_epochs": 1})
    fit_linear(settings, store, 1, IMAGES, {}, tmp_path / "fit", group="video")
    fitted, chooses = seen[0]
    assert {*fitted, *chooses} == {*IMAGES[0]} and not {*fitted // 4} & {*chooses // 4} and len({*chooses // 4}) == 1
    with pytest.raises(ValueError, match=r"at least 2 labelled training groups \(group=video\)"):
        linear_probe.selection_split(store, np.arange(12, 16), 0, "video")


@pytest.mark.slow
def test_intervals_are_those_of_resampled_images(store, tmp_path):
    """From the saved probe: the numbers of tokens put together anew, image by image, or video by video."""
    settings = LinearProbeSettings(**OWN | {"inputs": ("raw",), "lrs": (1e-2,)})
    images = np.arange(20, N_IMAGES), np.arange(20)
    for group, clusters in ((None, images[1]), ("video", images[1] // 4)):
        folder = tmp_path / str(group)
        (row,) = fit_linear(settings, store, 1, images, {}, folder, group=group, bootstrap=300, classes=[0, 2])
        tensors = load_file(folder / "linear" / "raw" / "probe.safetensors")
        acts, labels = zip(*(image(e) for e in images[1]), strict=True)
        logits = (torch.from_numpy(np.stack(acts)) - tensors["mean"]) / tensors["scale"] @ tensors["weight"] + tensors[
            "bias"
        ]
        p, labels, numbers = logits.softmax(2).numpy(), np.stack(labels), np.unique(clusters)
        found = []
        for drawn in draws(len(numbers), 300, settings.seed).T:
            e = np.concatenate(
                [np.flatnonzero(clusters == n) for n, t in zip(numbers, drawn, strict=True) for _ in range(t)]
            )
            kept = labels[e] < 65535
            true, probability = labels[e][kept], p[e][kept]
            aps = [average_precision_score(true == c, probability[:, c]) for c in (0, 2)]
            hits = probability.argmax(1)
            found.append([np.mean(aps), (hits == true).mean(), jaccard_score(true, hits, average="macro")])
        for name, values in zip(("map", "accuracy", "miou"), np.array(found).T, strict=True):
            low, high = np.quantile(values, [0.025, 0.975]) + row[name] - values.mean()
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high), abs=3e-3)
        assert row["map"] == pytest.approx(np.mean([row["ap"][c] for c in (0, 2)]))

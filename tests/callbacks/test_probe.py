"""Probes during training: the numbers of each member, whose labels they are from, and what is refused."""

import json
import math

import lightning as L
import numpy as np
import polars as pl
import pytest
import recordings
import torch
from conftest import TINY
from recordings import acts_of, record
from sklearn.linear_model import LogisticRegression

from callbacks import Probe
from datamodules import ActivationDataModule
from saev.nn import AuxK, Member, Normaliser, Plain, ReLU, SAEBank, TopK
from saev.training.bank.module import BankModule

CLASSES = 4
BANK = 'variants=[["sae=batchtopk","k=4"],["sae=relu","sparsity=1e-2"]]'


def classes_of_tokens(example, n_cls, tokens):
    """The direction that each patch goes furthest in; every seventh patch has no label."""
    acts = acts_of(example, 1, n_cls + tokens, 16) - 2  # the offset that all have
    found = (acts @ np.random.default_rng(5).normal(size=(16, CLASSES))).argmax(1).astype(np.uint16)
    found[:n_cls] = found[n_cls::7] = 65535
    return found


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "labels_of", classes_of_tokens)
        return record(tmp_path_factory.mktemp("probe") / "data", n_examples=120, labels=True)


def fit(dataset, probe, steps=6, **settings):
    data = ActivationDataModule(str(dataset), 1, 64, val_fraction=0.5, **settings)
    data.setup("fit")
    normaliser = Normaliser.fit(data.store.moments(1))
    sample = normaliser(data.sample(300))
    activations = {"relu": ReLU(1e-2), "topk": TopK(3)}
    specs = [Member(a, name, Plain(), AuxK(dead_tokens=100), 1e-2, d_sae=20) for name, a in activations.items()]
    module = BankModule(SAEBank([spec.build(normaliser, sample) for spec in specs]), torch.optim.Adam, warmup=0)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=3,
        check_val_every_n_epoch=None, log_every_n_steps=2, callbacks=[probe],
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)
    return module, data


def cross_entropy(y, logit):
    return (np.logaddexp(0, logit) - y * logit).mean()


def average_precision(y, scores):
    """Expected over all orders of equal scores."""
    total, above, hits = 0.0, 0, 0
    for value in np.unique(scores)[::-1]:
        tied = scores == value
        g, p = int(tied.sum()), int(y[tied].sum())
        for j in range(g):
            total += p / g * (hits + 1 + (j * (p - 1) / (g - 1) if g > 1 else 0)) / (above + 1 + j)
        above, hits = above + g, hits + p
    return total / y.sum()


def directly(sae, sample):
    """(R, mAP) by a regression of scikit-learn's for each latent and class."""
    train, val = (sae.encode(half.acts.float()).detach().double().numpy() for half in (sample.train, sample.val))
    ces, priors, aps = [], [], []
    for c in range(len(sample.classes)):
        y, y_val = ((half.labels == c).numpy().astype(float) for half in (sample.train, sample.val))
        best = (math.inf, None, None)
        for latent in np.flatnonzero(train.any(0)):
            model = LogisticRegression(C=1e8, tol=1e-8, max_iter=1000, solver="newton-cholesky").fit(
                train[:, [latent]], y
            )
            loss = cross_entropy(y, model.decision_function(train[:, [latent]]))
            best = min(best, (loss, latent, model), key=lambda item: item[0])
        x = val[:, [best[1]]]
        ces.append(cross_entropy(y_val, best[2].decision_function(x)))
        priors.append(cross_entropy(y_val, np.log(y_val.mean() / (1 - y_val.mean()))))
        aps.append(average_precision(y_val, best[2].coef_[0, 0] * x[:, 0]))
    return 1 - sum(ces) / sum(priors), np.mean(aps)


@pytest.mark.slow
def test_numbers_are_those_of_a_regression_for_each_latent_and_class(labelled):
    probe = Probe("train", images=60)  # with far fewer, single tokens decide how steep a fit is
    module, _ = fit(labelled, probe, steps=30)
    assert len(probe.sample.classes) == CLASSES
    for i, member in enumerate(module.bank):
        r, mean = directly(member.sae, probe.sample)
        assert mean > 0.3  # by chance 0.25
        assert module.validated["probe_r"][i] == pytest.approx(r, abs=1e-4)
        assert module.validated["probe_map"][i] == pytest.approx(mean, abs=1e-4)


@pytest.mark.slow
def test_images_that_are_trained_on_are_not_probed(labelled):
    for dataset in ("train", str(labelled)):  # by whatever name
        probe = Probe(dataset, images=64)
        _, data = fit(labelled, probe, steps=1)
        held_out = np.concatenate([data.store.read(1, int(e), "patches") for e in data.val_examples])
        rows = {row.tobytes() for row in held_out}
        assert all(row.tobytes() in rows for half in probe.sample[:2] for row in half.acts.numpy())


def test_another_recording_may_have_the_labels(labelled, tiny):
    probe = Probe(str(labelled), images=200)
    module, _ = fit(tiny, probe, steps=3)
    train, val, _ = probe.sample
    assert len(train.labels) == len(val.labels) == 60 * 13  # all its images, without void patches
    assert len(module.validated["probe_map"]) == 2 and all(map(math.isfinite, module.validated["probe_map"]))


def test_ignored_labels_are_not_probed(labelled):
    probe = Probe("train", images=64)
    fit(labelled, probe, steps=1, ignore_labels=(2,))
    assert probe.sample.classes.ids == (0, 1, 3)


@pytest.mark.slow
def test_a_member_that_diverged_has_no_number_and_the_others_have_theirs(labelled):
    probe = Probe("train", images=64)
    module, _ = fit(labelled, probe, steps=3)
    alone = list(module.validated["probe_r"])
    with torch.no_grad():
        next(iter(module.bank)).sae.w_enc.fill_(torch.nan)
    probe.on_validation_end(module.trainer, module)
    assert math.isnan(module.validated["probe_r"][0]) and module.validated["probe_r"][1] == alone[1]


def test_without_a_dataset_nothing_is_done(labelled):
    module, _ = fit(labelled, Probe(None), steps=3)
    assert "probe_r" not in module.validated


def test_labels_that_are_not_there_are_missed_before_training(tiny):
    with pytest.raises(
        ValueError, match=r"probe.dataset=train: .* has no patch labels: record an image set with masks"
    ):
        fit(tiny, Probe("train"))


# --- as a user types it


@pytest.mark.slow
def test_a_run_writes_the_numbers_of_every_member(labelled, cli, tmp_path):
    run = (
        "train", "experiment=none", f"dataset={labelled}", "layer=1", BANK, *TINY, "datamodule.val_fraction=0.5",
        "probe.dataset=train",
    )  # fmt: skip
    shown = cli(*run)
    assert shown.code == 0, shown.text
    (directory,) = (tmp_path / "outputs" / "train").glob("*/*")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["split"] == "val"]
    assert {line["member"] for line in validations} == {"sae=batchtopk,k=4", "sae=relu,sparsity=1e-2"}
    assert len(validations) == 4 and all({"probe_r", "probe_map", "nmse"} <= {*line} for line in validations)
    table = pl.read_parquet(directory / "results.parquet")
    assert table["probe_map"].is_between(0, 1).all() and table["probe_r"].is_finite().all()
    for row in table.iter_rows(named=True):
        exported = json.loads((directory / "saes" / row["member"] / "metrics.json").read_text())
        assert exported["probe_r"] == row["probe_r"]
    assert "probes of 4 classes at each validation" in shown.text


def test_two_processes_find_what_one_finds(labelled, fork_python, cli, tmp_path):
    """Members are divided among processes; none may wait for another's statistics, or mix them with its own."""
    short = [item for item in TINY if item != "trainer=cpu"]
    run = (
        "experiment=none",
        f"dataset={labelled}",
        "layer=1",
        BANK,
        *short,
        "datamodule.val_fraction=0.5",
        "probe.dataset=train",
    )
    found = []
    done = fork_python("train.py", *run, "trainer=ddp", "trainer.accelerator=cpu", "trainer.strategy.split=members")
    assert done.code == 0, done.text
    found += (tmp_path / "outputs" / "train").glob("*/*")
    alone = cli("train", *run, "trainer=cpu", "datamodule.parts=1")
    assert alone.code == 0, alone.text
    found += {*(tmp_path / "outputs" / "train").glob("*/*")} - {*found}
    two, one = (pl.read_parquet(path / "results.parquet") for path in found)
    for name in ("probe_r", "probe_map"):
        assert two[name].to_list() == pytest.approx(one[name].to_list(), rel=1e-6), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["probe.dataset=train"], "probe.dataset=.* has no patch labels: record an image set with masks"),
        (["probe.dataset=/nowhere"], "probe.dataset=/nowhere: .*not a recorded dataset"),
        (["probe.images=1"], "probe.images=1: must be at least 2"),
        (["probe.tokens=0"], "probe.tokens=0: .* at least 2"),
        (["probe.tokens=many"], "probe.tokens"),
    ],
)
def test_nonsense_is_refused_before_a_run_begins(overrides, message, cli, tiny, tmp_path):
    import re

    shown = cli("train", "experiment=none", f"dataset={tiny}", "layer=1", *TINY, *overrides)
    assert shown.code == 1 and re.search(message, shown.text), shown.text
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_images_without_masks_are_refused_before_they_are_recorded(cli, tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 9, 200 - 30 * i)).save(tmp_path / f"{i}.png")
    run = ("vit=micro", "images=folder", f"images.root={tmp_path}", "layer=1", *TINY, "batch_size=8")
    shown = cli("train", "experiment=none", *run, "probe.dataset=train")
    assert shown.code == 1 and "have no masks, so their patches have no labels; take images=segmentation" in shown.text
    assert not list((tmp_path / "outputs").rglob("manifest.json"))

"""Linear probes on Lightning: a grid fits as single probes would, stops by itself, resumes exactly, in any number of processes."""

import lightning as L
import numpy as np
import pytest
import torch
from conftest import mostly_slow
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, jaccard_score
from sklearn.utils.class_weight import compute_class_weight
from training.banks import StopAt, assert_equal, state
from training.probes import DECAYS, LRS, N_IMAGES, build, dictionary, image, record_classes, tokens_of

from saev.codes.pairs import sparse_codes
from saev.probing.labels import ImageLabels
from saev.training.linear.inputs import inputs_of
from saev.training.linear.loss import class_weights, prior_logits, token_losses
from saev.training.linear.maps import logit_map, map_overlap, patch_map
from saev.training.linear.probe import Probe, ProbeSpec, grid


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record_classes(tmp_path_factory.mktemp("probes") / "data")


def fitted(dataset, **kw):
    trainer, module, data = build(dataset, **kw)
    trainer.fit(module, data)
    steps = trainer.global_step
    module.restore_best()
    trainer.validate(module, data, verbose=False)
    return steps, module, data


@pytest.fixture(scope="module")
def through(dataset):
    return fitted(dataset)


@pytest.mark.slow
def test_a_grid_of_n_is_n_single_probes(dataset, through):
    """Guards against probes coupled by a shared norm, step count or early stop."""
    _, together, _ = through
    assert len(together.probes) == 8
    for i, probe in enumerate(together.probes):
        _, alone, _ = fitted(dataset, inputs=[probe.spec.input], points=[probe.spec])
        assert_equal(state(alone.probes[0]), state(probe))
        assert alone.rows == [together.rows[i]]


class SaveAt(L.Callback):
    """Saves after a step, before what validation follows it, and stops there."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


class SaveAfterValidation(L.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_validation_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.parametrize(
    ("save", "epochs"),
    mostly_slow([(SaveAt, 1.5), (SaveAt, 2), (SaveAfterValidation, 2)]),
    ids=["within", "before", "after"],
)
def test_resumed_is_uninterrupted(dataset, through, tmp_path, save, epochs):
    """Guards against an epoch that is judged twice, or not at all, where it ends with the checkpoint."""
    steps, undisturbed, _ = through
    at = int(epochs * undisturbed.steps_per_epoch)
    trainer, module, data = build(dataset, callbacks=[save(at, tmp_path / "last.ckpt")])
    trainer.fit(module, data)
    trainer, again, data = build(dataset)
    trainer.fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert trainer.global_step == steps
    again.restore_best()
    trainer.validate(again, data, verbose=False)
    assert_equal(state(again), state(undisturbed))
    assert again.rows == undisturbed.rows


def test_a_validation_that_lightning_adds_when_it_stops_judges_nothing(dataset):
    trainer, module, data = build(dataset, callbacks=[StopAt(3)])
    trainer.fit(module, data)
    assert trainer.global_step == 3 < module.steps_per_epoch
    assert [probe.epoch for probe in module.probes] == [0] * 8


@pytest.mark.slow
def test_a_probe_stops_by_its_own_loss_and_keeps_its_best_parameters(dataset, through):
    steps, module, _ = through
    epochs = [probe.epoch for probe in module.probes]
    assert len(set(epochs)) > 1, "the case shows nothing where all stop together"
    for probe in module.probes:
        assert probe.epoch - probe.best_epoch == 2 if probe.stopped else probe.epoch == 6
        point = {"inputs": [probe.spec.input], "points": [probe.spec]}
        _, short, _ = fitted(dataset, **point, epochs=probe.best_epoch)  # it never saw what came after
        assert torch.equal(short.probes[0].best_weight, probe.weight)
    assert steps == max(epochs) * module.steps_per_epoch


def test_the_trainer_stops_with_the_last_probe_and_a_stopped_one_costs_nothing(dataset):
    trainer, module, data = build(dataset, epochs=50, inputs=["raw"], lrs=[0.3, 0.1], decays=[0.0])
    calls = {i: 0 for i in range(2)}
    for i, probe in enumerate(module.probes):
        probe.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    trainer.fit(module, data)
    assert all(probe.stopped for probe in module.probes)
    longest = max(probe.epoch for probe in module.probes)
    assert trainer.global_step == longest * module.steps_per_epoch < 50 * module.steps_per_epoch
    batches = module.steps_per_epoch + len(list(data.val_dataloader()))
    assert calls == {i: probe.epoch * batches for i, probe in enumerate(module.probes)}


def test_validation_numbers_are_those_of_scikit_learn(through):
    _, module, data = through
    acts, labels = tokens_of(data.val_examples)
    for probe, row in zip(module.probes, module.rows, strict=True):
        x = module.inputs[probe.spec.input].features(torch.from_numpy(acts))
        log_p = log_softmax(probe(x).detach().double().numpy(), axis=1)
        p = np.exp(log_p)
        assert row["n_tokens"] == len(labels)
        assert row["ce"] == row["loss"] == pytest.approx(-log_p[np.arange(len(labels)), labels].mean(), rel=1e-5)
        assert row["ce"] == pytest.approx(probe.best_loss, rel=1e-12)  # the best epoch's parameters are back
        assert row["accuracy"] == pytest.approx((p.argmax(1) == labels).mean(), abs=1e-12)
        assert row["miou"] == pytest.approx(jaccard_score(labels, p.argmax(1), average="macro"), rel=1e-12)
        odds = [log_p[:, c] - logsumexp(np.delete(log_p, c, 1), axis=1) for c in range(3)]  # p itself ends at 1
        precision = [average_precision_score(labels == c, odds[c]) for c in range(3)]
        assert row["ap"] == pytest.approx(precision, abs=0.01) and row["map"] == pytest.approx(np.mean(row["ap"]))


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_a_probe_finds_the_optimum_of_logistic_regression(dataset, weights):
    trainer, module, data = build(
        dataset, inputs=["raw"], lrs=[0.03], decays=[0.0], epochs=50, patience=50, weights=weights
    )
    trainer.fit(module, data)
    acts, labels = tokens_of(data.train_examples)
    x = module.inputs["raw"].features(torch.from_numpy(acts))
    reference = LogisticRegression(
        C=np.inf, class_weight=None if weights == "none" else weights, tol=1e-10, max_iter=5000
    )
    logits = reference.fit(x.numpy(), labels).decision_function(x.numpy())
    y = torch.from_numpy(labels)
    best = float(token_losses(torch.from_numpy(logits).float(), y, module.weights).mean())
    found = float(token_losses(module.probes[0](x), y, module.weights).mean())
    start = float(token_losses(prior_logits(len(y), y.bincount(), True).expand(len(y), -1), y, module.weights).mean())
    assert best - 1e-6 <= found <= best + 0.01 * (start - best)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    counts = torch.from_numpy(np.bincount(labels))
    found = class_weights("balanced", 10, counts, exclusive=True)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert found[[0, 1, 3]].tolist() == pytest.approx(expected) and found[2] == 0
    pairs = class_weights("balanced", 10, torch.tensor([4, 0]), exclusive=False)
    assert pairs[:, 0].tolist() == pytest.approx(
        compute_class_weight("balanced", classes=np.arange(2), y=[0] * 6 + [1] * 4)
    )


def test_labels_that_do_not_exclude_each_other_are_fitted_as_binary_ones(dataset):
    table = np.stack([image(e)[1] == 0 for e in range(N_IMAGES)])[:, :2]  # whether its first patches are of class 0
    labels = ImageLabels(np.concatenate([table, np.zeros((N_IMAGES, 1), bool)], 1))
    _, module, data = fitted(dataset, inputs=["raw"], lrs=[0.01], decays=[0.0], epochs=2, labels=(labels, labels))
    acts = np.concatenate([image(int(e))[0] for e in data.val_examples])
    y = np.repeat(labels.table[data.val_examples], 16, axis=0)
    p = module.probes[0](module.inputs["raw"].features(torch.from_numpy(acts))).detach().double().sigmoid().numpy()
    row = module.rows[0]
    expected = -(np.log(p) * y + np.log(1 - p) * ~y).mean()
    assert row["ce"] == pytest.approx(expected, rel=1e-5)
    assert row["accuracy"] == pytest.approx(((p > 0.5) == y).mean(), abs=1e-12)
    assert row["ap"][0] == pytest.approx(average_precision_score(y[:, 0], p[:, 0]), abs=0.01)
    assert np.isnan(row["ap"][2]) and not np.isnan(row["map"])  # nothing to find there


def test_products_with_pairs_are_those_with_dense_codes():
    acts, labels = tokens_of(range(10))
    sae, y = dictionary(), torch.from_numpy(labels)
    codes = sparse_codes(sae, torch.from_numpy(acts))
    grads = []
    for x in (codes, codes.dense(96)):
        probe = Probe(ProbeSpec("codes", 0.1, 0.0), 96, torch.zeros(3))
        torch.nn.init.normal_(probe.weight, generator=torch.Generator().manual_seed(0))
        token_losses(probe(x), y).mean().backward()
        grads.append((probe.weight.grad, probe.bias.grad))
    torch.testing.assert_close(grads[0], grads[1])


def test_dictionaries_stay_as_they_are_and_out_of_checkpoints(through):
    _, module, _ = through
    before, after = state(dictionary()), state(module.inputs["codes"].dictionary)
    assert_equal(before, after)
    assert all(name.startswith("probes.") for name in module.state_dict())
    assert all(p.grad is None for p in module.inputs["codes"].dictionary.parameters())


def test_the_best_probe_of_each_input_is_chosen_by_its_validation_loss(through):
    _, module, _ = through
    for name, i in module.chosen().items():
        losses = [row["loss"] for row in module.rows if row["input"] == name]
        assert module.rows[i]["input"] == name and module.rows[i]["loss"] == min(losses)


def test_a_probe_that_diverges_fails_alone(dataset):
    """The other one ends as if it had been by itself."""

    class Spoil(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            with torch.no_grad():
                pl_module.probes[1].weight.fill_(torch.nan)

    good, bad = ProbeSpec("raw", 0.1, 0.0), ProbeSpec("raw", 0.2, 0.0)
    _, module, _ = fitted(dataset, points=[good, bad], inputs=["raw"], callbacks=[Spoil()])
    _, alone, _ = fitted(dataset, points=[good], inputs=["raw"])
    assert [probe.failed for probe in module.probes] == [False, True] and module.probes[1].epoch == 1
    assert module.rows[0] == alone.rows[0] and np.isfinite(module.rows[1]["ce"])  # that of the start
    assert module.chosen() == {"raw": 0}


def test_another_grid_is_not_resumed(dataset, tmp_path):
    trainer, module, data = build(dataset, callbacks=[SaveAt(2, tmp_path / "last.ckpt")])
    trainer.fit(module, data)
    trainer, other, data = build(dataset, lrs=[0.1])
    with pytest.raises(ValueError, match=r"the checkpoint's probes are .*lr=0\.3.* this run's are .*lr=0\.1"):
        trainer.fit(other, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_wrong_settings_are_named(dataset):
    with pytest.raises(ValueError, match=r"there is no kmeans: choose of \['raw', 'all', 'codes'\]"):
        build(dataset, inputs=["kmeans"])
    trainer, module, data = build(dataset, val_check_interval=2)
    with pytest.raises(ValueError, match="val_check_interval=2 must be 9"):
        trainer.fit(module, data)
    assert list(inputs_of(["all"], module.inputs["raw"].normaliser, {"codes": dictionary()})) == ["raw", "codes"]
    assert len(grid(["raw"], LRS, DECAYS)) == 4


def test_maps_are_logits_upsampled_between_the_centres_of_patches():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])  # two patches side by side: the margin goes from 2 to -1
    found = logit_map(logits, (1, 2), (2, 8))
    centres = (torch.arange(8) + 0.5) / 4 - 0.5  # in patches
    margin = 2 - 3 * centres.clamp(0, 1)
    assert found.tolist() == [(margin < 0).long().tolist()] * 2
    true = patch_map(torch.tensor([0, -1]), (1, 2), (2, 8))
    assert true.tolist() == [[0] * 4 + [-1] * 4] * 2
    assert map_overlap(logits, (1, 2), true).tolist() == [[8, 0], [8, 0], [8, 0]]  # void pixels are left out


def test_two_processes_fit_what_one_fits(fork_pair, dataset, tmp_path):
    fork_pair("tests/training/probe_process.py", dataset, tmp_path)
    steps, module, _ = fitted(dataset, parts=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["steps"] == steps
        for name, value in state(module).items():
            if torch.is_tensor(value):
                torch.testing.assert_close(found["state"][name], value, rtol=1e-4, atol=1e-5)
        for row, expected in zip(found["rows"], module.rows, strict=True):
            assert row["epochs"] == expected["epochs"] and row["best_epoch"] == expected["best_epoch"]
            assert row["ce"] == pytest.approx(expected["ce"], rel=1e-5)
            assert row["ap"] == pytest.approx(expected["ap"], abs=1e-3)

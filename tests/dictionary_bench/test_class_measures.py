"""Measures of labelled images: planted worlds, nulls, intervals and the faults of ViSAEBench's definitions."""

import dataclasses

import numpy as np
import pytest
from dictionary_bench.planted import class_codes, planted
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from saev.dictionary_bench.absorption import absorption, f1_scores, top_latents
from saev.dictionary_bench.preservation import classifier, preservation
from saev.dictionary_bench.sparse_probe import area, sparse_probe
from saev.dictionary_bench.transfer import Other, by_chance, transfer
from saev.metrics.resampling import draws, interval


def test_preservation_of_perfect_constant_and_other_reconstructions():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    mean = rng.normal(size=(90, 6)) + 4 * np.eye(3, 6)[labels]
    codes, drawn = planted(np.ones((90, 4)), mean, mean), draws(90, 50)
    fitted = classifier(codes.images, labels)
    perfect = preservation(codes, fitted, drawn)
    assert perfect.value == 1 and perfect.n == 18 and (perfect.draws == 1).all()
    assert perfect.null == pytest.approx(6 / 18 / perfect.details["accuracy_original"])
    constant = dataclasses.replace(codes, reconstruction=np.broadcast_to(mean.mean(0), mean.shape).astype(np.float32))
    assert preservation(constant, fitted).value == pytest.approx(perfect.null)
    noisy = dataclasses.replace(codes, reconstruction=(mean + 3 * rng.normal(size=mean.shape)).astype(np.float32))
    found = preservation(noisy, fitted, drawn)
    low, high = interval(found.draws, found.value)
    assert perfect.null < found.value < 1 and low < found.value < high
    model, rows, classes = fitted
    again = np.repeat(np.arange(18), drawn[rows][:, 3])
    right = [(model.predict(x[rows]) == classes)[again].mean() for x in (noisy.reconstruction, codes.images.mean)]
    assert found.draws[3] == pytest.approx(right[0] / right[1])


def test_a_sparse_probe_of_planted_classes_and_its_null():
    codes, labels = class_codes()
    found = sparse_probe(codes, labels, draws(80, 20), k=(1, 3, 20))
    assert {*found.details["chosen"][:4]} == {0, 1, 2, 3}
    assert found.details["accuracies"][20] == 1 and found.value > 0.9
    assert found.null < 0.5
    assert len(found.draws) == 20 and abs(found.draws.mean() - found.value) < 0.1
    unlabelled = np.where(np.arange(80) % 2 == 0, labels, -1)
    assert sparse_probe(codes, unlabelled, k=(1,)).n == 8
    with pytest.raises(ValueError, match="needs 10 labelled images of 2 classes"):
        sparse_probe(codes, np.full(80, 2))
    assert area([1, 5, 10], np.array([[0.2], [0.4], [0.4]]))[0] == pytest.approx((4 * 0.3 + 5 * 0.4) / 9)


def test_ranking_on_test_images_too_makes_noise_look_informative():
    """The fault of ViSAEBench's probes: of latents without any relation to the classes, accuracy is above chance."""
    rng = np.random.default_rng(1)
    noise = (rng.random((60, 3000)) * (rng.random((60, 3000)) < 0.4)).astype(np.float32)
    codes, labels = planted(noise), np.repeat([0, 1], 30)
    values = {
        ranked: np.mean(
            [sparse_probe(codes, labels, k=(20,), ranked_on=ranked, seed=s, permutations=0).value for s in range(10)]
        )
        for ranked in ("train", "all")
    }
    assert values["train"] < 0.65 and values["all"] > 0.8


def test_transfer_of_the_same_images_and_of_silent_ones():
    codes, labels = class_codes()
    same = transfer(codes, {"same": Other(codes, labels)}, n_draws=10)
    numbers = same.details["same"]
    assert numbers["coverage"] == numbers["jaccard"] == 1 and same.n == 1
    assert same.value == pytest.approx(np.mean([max(0, 1 - numbers["fvu"]), 1, 1, numbers["probe"]]))
    assert len(same.draws) == 10
    silent = planted(np.zeros((80, 34), np.float32))
    away = transfer(codes, {"same": Other(codes, labels), "silent": Other(silent, labels)})
    assert away.details["silent"]["coverage"] == away.details["silent"]["jaccard"] == 0
    assert away.value == pytest.approx((same.value + away.details["silent"]["score"]) / 2)
    assert by_chance(10, 5, 50) == (0.1, 1 / 14)


def test_absorption_of_classes_with_and_without_latents():
    """Ten latents of each class: not absorbed. Ten latents of all of them, and no other: absorbed."""
    labels = np.repeat(np.arange(4), 20)
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.random((80, 60))
    separate, together = noise.copy(), noise.copy()
    separate[np.arange(80)[:, None], 10 * labels[:, None] + np.arange(10)] += 1 + rng.random((80, 10))
    together[:, :10] += 1
    groups = {"animals": [0, 1, 2, 3], "pair": [0, 1]}
    drawn = draws(80, 10)
    apart = absorption(planted(separate), labels, groups, drawn)
    assert apart.value == 0 and apart.n == 4 and (apart.draws <= 0.25).all()
    assert absorption(planted(together), labels, groups).value == 1
    assert np.isnan(absorption(planted(separate), labels, {"pair": [0, 1]}).value)


def test_four_latents_always_beat_one_where_they_were_fitted():
    """The fault of ViSAEBench's F1 gap: of latents without any relation to the classes, classes are absorbed."""
    rng = np.random.default_rng(0)
    noise = (rng.random((90, 2000)) * (rng.random((90, 2000)) < 0.4)).astype(np.float32)
    labels = np.repeat(np.arange(3), 30)
    found = {
        side: absorption(planted(noise), labels, {"g": [0, 1, 2]}, judged_on=side, permutations=0)
        for side in ("train", "test")
    }
    gaps = {side: one.details["f1_many"] - one.details["f1_few"] for side, one in found.items()}
    assert gaps["train"] > 0.1 > gaps["test"] + 0.05 or gaps["train"] > gaps["test"] + 0.1


def test_f1_and_top_latents():
    true, predicted = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    counts = np.array([[1, 2, 0], [1, 0, 0], [1, 0, 0], [1, 1, 2]], float)
    assert f1_scores(true, predicted, counts).tolist() == [0.5, 1, 0]
    assert top_latents(np.array([[0.0, 3.0, 2.0]])).tolist() == [[False, True, True]]


def test_probes_and_absorption_are_those_of_dense_arithmetic():
    """scikit-learn on dense codes, with its own F statistic and F1."""
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat(np.arange(4), 20))
    x = rng.exponential(size=(80, 40)) * (rng.random((80, 40)) < 0.5) + 0.5 * np.eye(4, 40)[labels]
    codes = planted(x := x.astype(np.float32))
    train, test = train_test_split(np.arange(80), test_size=0.2, stratify=labels, random_state=42)
    best = np.argsort(-f_classif(x[train].astype(float), labels[train])[0])
    found = sparse_probe(codes, labels, k=(1, 5), permutations=0).details
    assert (found["chosen"] == best[:5]).all()
    for k, accuracy in found["accuracies"].items():
        model = LogisticRegression(max_iter=500).fit(x[train][:, best[:k]], labels[train])
        assert accuracy == pytest.approx(model.score(x[test][:, best[:k]], labels[test]))
    rows = absorption(codes, labels, {"g": [0, 1, 2, 3]}, judged_on="train", permutations=0).details["classes"]
    everything = {*np.argsort(-x.mean(0))[:10]}
    for c, row in enumerate(rows):
        y, top = labels == c, {*np.argsort(-x[labels == c].mean(0))[:10]}
        best = np.argsort(-f_classif(x.astype(float), y)[0])
        scores = [
            f1_score(y, LogisticRegression(max_iter=500).fit(x[:, best[:k]], y).predict(x[:, best[:k]])) for k in (1, 4)
        ]
        assert [row["f1_few"], row["f1_many"]] == pytest.approx(scores)
        assert row["overlap"] == pytest.approx(len(top & everything) / len(top | everything))


def test_parents_may_share_children():
    codes, labels = class_codes(classes=5)
    groups = {"first": [0, 1, 2], "second": [2, 3, 4]}
    measured = absorption(codes, labels, groups, permutations=4)
    assert len(measured.nulls) == 4 and measured.n == 6
    again = absorption(codes, labels, groups, permutations=4, null_seed=1)
    assert again.value == measured.value and measured.null == pytest.approx(measured.nulls.mean())

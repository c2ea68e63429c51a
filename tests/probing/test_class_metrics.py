"""The best latent of each class: chosen by training loss, and its numbers against scikit-learn on the same tokens."""

import numpy as np
import pytest
import torch
from probing.labelled import CLASSES, LATENTS, codes, labels, many_labels, table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

from saev.codes.pairs import from_dense
from saev.probing.bootstrap import FiringTokens, cross_entropies, draws
from saev.probing.class_metrics import ClassMetrics, best_latents, evaluate
from saev.probing.counts.table import Columns
from saev.probing.logistic.fit import RIDGE
from saev.probing.logistic.weighting import fit_all
from saev.probing.ranking import average_precision
from saev.probing.rows import intervals, summarise

VAL = slice(300, 500)
TRAIN = slice(0, 300)
EVERY = [pytest.param(labels(), id="exclusive"), pytest.param(many_labels(), id="many")]


def judged(y, weights="none"):
    """(fit of all pairs, columns, judged, codes of the columns)."""
    x = codes()
    train = table(x[TRAIN], y[TRAIN])
    fit = fit_all(train, 3, weights)
    top = best_latents(fit, train, 3)
    at = torch.arange(train.n_classes)
    columns = Columns.choose(top[:, 0], fit.w[top[:, 0].clamp(min=0), at], LATENTS)
    own = torch.stack([sign * x[:, latent] for latent, sign in zip(columns.latents, columns.signs, strict=True)], 1)
    known = columns.of_class.clamp(min=0)
    start = fit.b[top[:, 0], at], fit.w[top[:, 0], at] * columns.signs[known]
    tables = table(own[TRAIN], y[TRAIN]), table(own[VAL], y[VAL])
    return fit, top, columns, evaluate(*tables, columns.of_class, start, RIDGE, weights), own


@pytest.mark.parametrize("y", EVERY)
def test_the_best_latents_are_those_of_least_training_loss(y):
    fit, top, _, _, _ = judged(y)
    dead_last = fit.loss.clone()
    dead_last[5] = torch.inf
    for c in range(CLASSES - 1):
        assert top[c].tolist() == dead_last[:, c].argsort(stable=True)[:3].tolist()
    assert (top[CLASSES - 1] == -1).all()  # no token of class 3


@pytest.mark.parametrize("y", EVERY)
def test_their_numbers_are_scikit_learns(y):
    _, _, columns, found, own = judged(y)
    exclusive = y.ndim == 1
    known = (y >= 0) if exclusive else torch.ones(len(y), dtype=torch.bool)
    for c in range(CLASSES - 1):
        x = own[:, columns.of_class[c]].double().numpy()
        hit = ((y == c) if exclusive else y[:, c]).numpy()
        train, val = (np.flatnonzero(known.numpy()[part]) + part.start for part in (TRAIN, VAL))
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(x[train, None], hit[train])
        if found.status[c] == 0:
            probability = model.predict_proba(x[val, None])[:, 1]
            assert found.ce[c] == pytest.approx(log_loss(hit[val], probability), rel=1e-4)
        prior = log_loss(hit[val], np.full(len(val), hit[val].mean()))
        assert found.r[c] == pytest.approx(1 - found.ce[c].item() / prior)
        assert found.auroc[c] == pytest.approx(roc_auc_score(hit[val], x[val]), rel=1e-9)
        if len(np.unique(x[val])) == len(val):
            assert found.ap[c] == pytest.approx(average_precision_score(hit[val], x[val]), rel=1e-9)
        predicted = x[val] >= found.threshold[c].item()
        assert found.f1[c] == pytest.approx(f1_score(hit[val], predicted))
        assert found.iou[c] == pytest.approx(jaccard_score(hit[val], predicted))
    assert all(bool(values[CLASSES - 1].isnan()) for values in found if values.is_floating_point())


@pytest.mark.parametrize("y", EVERY)
def test_balanced_ones_are_scikit_learns_with_its_balanced_weights(y):
    _, top, columns, found, own = judged(y, "balanced")
    exclusive = y.ndim == 1
    known = (y >= 0).numpy() if exclusive else np.ones(len(y), bool)
    for c in range(CLASSES - 1):
        x = own[:, columns.of_class[c]].double().numpy()
        hit = ((y == c) if exclusive else y[:, c]).numpy()
        train, val = (np.flatnonzero(known[part]) + part.start for part in (TRAIN, VAL))
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000, class_weight="balanced")
        model.fit(x[train, None], hit[train])
        for tokens, ce in ((train, found.train_ce[c]), (val, found.ce[c])):
            probability = model.predict_proba(x[tokens, None])[:, 1]
            weight = compute_sample_weight("balanced", hit[tokens])
            if found.status[c] == 0:
                assert ce == pytest.approx(log_loss(hit[tokens], probability, sample_weight=weight), rel=1e-5)
        assert found.r[c] == pytest.approx(1 - found.ce[c].item() / np.log(2))
        assert found.ap[c] == pytest.approx(average_precision(table(own[VAL], y[VAL]))[columns.of_class[c], c].item())
    assert (found.status == 0).sum() >= 2
    torch.testing.assert_close(found.ce_prevalence[:3], torch.full((3,), np.log(2), dtype=torch.float64))
    torch.testing.assert_close(found.train_ce_prevalence[:3], found.ce_prevalence[:3])
    assert (top[CLASSES - 1] == -1).all() and bool(found.ce[CLASSES - 1].isnan())  # no token of class 3
    total = summarise(found)
    assert total["r"] == pytest.approx(found.r[:3].mean().item()) == pytest.approx(total["r_macro"])


def test_balanced_intervals_lie_around_what_was_found():
    y = labels()
    _, _, columns, found, own = judged(y, "balanced")
    firing, image = FiringTokens(10), torch.arange(200) // 20
    firing.update(from_dense(own[VAL]), y[VAL], image)
    firing.finish()
    once = np.ones((10, 1), np.int64)  # every image once: what was found
    rows, ends = intervals(found, columns.of_class.numpy(), firing, once, "balanced")
    evidence = [firing.of(int(columns.of_class[c]), c) for c in range(3)]
    losses = [cross_entropies(evidence[c], found.b[c].item(), found.w[c].item(), once, "balanced")[0] for c in range(3)]
    assert [loss.item() for loss in losses] == pytest.approx(found.ce[:3].tolist(), rel=1e-9)
    assert rows[1]["r_low"] == pytest.approx(found.r[1].item()) and ends["r_high"] == pytest.approx(
        summarise(found)["r"]
    )
    rows, ends = intervals(found, columns.of_class.numpy(), firing, draws(10, 200), "balanced")
    assert np.count_nonzero(firing.positives(0)) < 5 and all(np.isnan(end) for end in rows[0].values())
    for c in range(1, 3):
        assert rows[c]["r_low"] < found.r[c] < rows[c]["r_high"]
    assert ends["r_low"] < summarise(found)["r"] < ends["r_high"]


def test_a_class_of_every_validation_token_has_no_balanced_loss_and_spoils_no_sum():
    y = many_labels()
    y[VAL, 1] = True
    _, _, columns, found, own = judged(y, "balanced")
    assert columns.of_class[1] >= 0 and found.ce[1].isnan() and found.r[1].isnan() and found.ap[1] == 1
    assert summarise(found)["r"] == pytest.approx(found.r[[0, 2]].mean().item())
    firing = FiringTokens(10)
    firing.update(from_dense(own[VAL]), y[VAL], torch.arange(200) // 20)
    firing.finish()
    rows, ends = intervals(found, columns.of_class.numpy(), firing, draws(10, 50), "balanced")
    assert np.isnan(rows[1]["r_low"]) and ends["r_low"] < summarise(found)["r"] < ends["r_high"]


@pytest.mark.parametrize("y", EVERY)
def test_summary_and_intervals_are_those_of_the_classes_that_can_be_judged(y):
    _, _, columns, found, own = judged(y)
    total = summarise(found)
    judgeable = found.ap.isfinite()
    assert total["n_classes"] == 3 and total["map"] == pytest.approx(found.ap[judgeable].mean().item())
    assert total["r"] == pytest.approx(1 - (found.ce[judgeable].sum() / found.ce_prevalence[judgeable].sum()).item())
    assert total["coverage_0.5"] == (found.ap[judgeable] >= 0.5).double().mean()
    firing, image = FiringTokens(10), torch.arange(200) // 20
    for part in (slice(0, 77), slice(77, 200)):
        firing.update(from_dense(own[VAL][part]), y[VAL][part], image[part])
    firing.finish()
    rows, ends = intervals(found, columns.of_class.numpy(), firing, draws(10, 200), "none")
    n_images = [np.count_nonzero(firing.positives(c)) for c in range(CLASSES)]
    for c in range(CLASSES - 1):
        if n_images[c] < 5:  # too few to say how it would be on others
            assert all(np.isnan(end) for end in rows[c].values())
            continue
        assert (
            rows[c]["ap_low"] < found.ap[c] < rows[c]["ap_high"] and rows[c]["r_low"] < found.r[c] < rows[c]["r_high"]
        )
    assert ends["map_low"] < total["map"] < ends["map_high"] and ends["r_low"] < total["r"] < ends["r_high"]
    assert np.isnan(rows[CLASSES - 1]["ap_low"])
    once = draws(10, 200)[:, :1] * 0 + 1  # every image once: what was found
    rows, ends = intervals(found, columns.of_class.numpy(), firing, once, "none")
    assert rows[1]["ap_low"] == pytest.approx(found.ap[1].item()) and ends["r_high"] == pytest.approx(total["r"])


def test_a_class_of_every_validation_token_has_no_share_to_explain_and_spoils_no_mean():
    y = many_labels()
    y[VAL, 1] = True
    _, _, columns, found, _ = judged(y)
    assert columns.of_class[1] >= 0 and found.r[1].isnan() and found.ap[1] == 1
    others = found.ap.isfinite() & found.r.isfinite()
    assert summarise(found)["r_macro"] == pytest.approx(found.r[others].mean().item())
    only = found._replace(**{name: values[1:2] for name, values in found._asdict().items()})
    assert np.isnan(summarise(only)["r"]) and summarise(only)["map"] == 1


def test_a_dictionary_without_a_latent_for_any_class_has_no_numbers():
    nothing = ClassMetrics.empty(CLASSES)
    assert summarise(nothing) == {"n_classes": 0} and (nothing.status == -1).all()
    rows, means = intervals(nothing, np.full(CLASSES, -1), FiringTokens(4), draws(4, 10), "none")
    assert means == {} and len(rows) == CLASSES and np.isnan(rows[0]["r_low"])

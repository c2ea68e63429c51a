"""AP, AUROC, best F1 and IoU of all pairs against scikit-learn, enumerated orders, random orders and exact fractions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from probing.labelled import CLASSES, LATENTS, N, codes, labels, many_labels, table
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from saev.metrics.ranking import rank_sums
from saev.probing import ranking as tie_groups
from saev.probing.counts import segments
from saev.probing.ranking import auroc, average_precision, best_f1

RANKINGS = (average_precision, auroc, lambda t: best_f1(t).value)


@pytest.fixture(params=["numpy", "torch"])
def path(request, monkeypatch):
    """Both paths of the sorts and sums: that of CPUs, and that of other devices."""
    if request.param == "torch":
        monkeypatch.setattr(segments, "on_cpu", lambda x: False)


def pairs(y):
    """Of each (latent, class): its codes and whether each known token is of the class."""
    known = (y >= 0) if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool)
    x = codes().numpy()[known]
    for latent, label in itertools.product(range(LATENTS), range(CLASSES)):
        yield latent, label, x[:, latent], (y[known] == label if y.ndim == 1 else y[:, label]).numpy()


def in_fractions(scores, hits):
    """Expected AP over the orders of ties, rank by rank as McSherry & Najork write it."""
    total, n, r = Fraction(0), 0, 0
    for score in sorted(set(scores), reverse=True):
        group = [hit for s, hit in zip(scores, hits, strict=True) if s == score]
        g, p = len(group), sum(group)
        for i in range(1, g + 1):
            others = Fraction((i - 1) * (p - 1), g - 1) if g > 1 else 0
            total += Fraction(p, g) * (r + others + 1) / (n + i)
        n, r = n + g, r + p
    return total / sum(hits)


def of_order(hits):
    hits = np.asarray(hits, dtype=float)
    return (hits * hits.cumsum(-1) / np.arange(1, hits.shape[-1] + 1)).sum(-1) / hits.sum(-1)


@pytest.mark.parametrize("y", [labels(), many_labels()], ids=["one class", "many"])
def test_ap_is_the_closed_formula_in_fractions(y, path):
    found = average_precision(table(codes(), y))
    for latent, label, x, hit in pairs(y):
        if not hit.any():
            assert torch.isnan(found[latent, label])
        else:
            assert found[latent, label].item() == pytest.approx(
                float(in_fractions(x.tolist(), hit.tolist())), abs=1e-12
            )


def test_ap_is_the_mean_over_all_orders_of_ties():
    rng = np.random.default_rng(0)
    for _ in range(10):
        scores, hits = rng.integers(-1, 2, size=6), rng.integers(0, 2, size=6)
        hits[0] = 1
        orders = [order for order in itertools.permutations(range(6)) if (np.diff(scores[list(order)]) <= 0).all()]
        expected = of_order([hits[list(order)] for order in orders]).mean()
        x = torch.from_numpy(scores[:, None].astype(np.float32))
        found = average_precision(table(x, torch.from_numpy(hits)[:, None].bool()))
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_ap_is_the_mean_over_random_orders_of_ties():
    x, y, rng = codes()[:80], labels()[:80], np.random.default_rng(0)
    found, known = average_precision(table(x, y)), y >= 0
    for latent, label in itertools.product((0, 2, 4, 5, 6), (1, 2)):  # many ties
        scores, hit = x[known, latent].numpy(), (y[known] == label).numpy()
        drawn = of_order(
            hit[np.argsort(rng.random((20000, len(hit))) - 10 * np.searchsorted(np.unique(scores), scores))]
        )
        assert abs(drawn.mean() - found[latent, label].item()) < 5 * drawn.std() / 20000**0.5 + 1e-12


def test_without_ties_ap_is_scikit_learns():
    y = labels()
    found = average_precision(table(codes(), y))
    for latent, label, x, hit in pairs(y):
        if latent in (3, 7) and hit.any():
            assert found[latent, label].item() == pytest.approx(average_precision_score(hit, x), abs=1e-12)


@pytest.mark.parametrize("y", [labels(), many_labels()], ids=["one class", "many"])
def test_auroc_is_scikit_learns(y, path):
    found = auroc(table(codes(), y))
    for latent, label, x, hit in pairs(y):
        if hit.any():
            assert found[latent, label].item() == pytest.approx(roc_auc_score(hit, x), abs=1e-12)
        else:
            assert torch.isnan(found[latent, label])


def test_the_threshold_of_the_best_f1_has_the_best_iou_too(path):
    y = labels()
    f1 = best_f1(table(codes(), y))
    for latent, label, x, hit in pairs(y):
        if not hit.any():
            assert torch.isnan(f1.value[latent, label]) and torch.isnan(f1.threshold[latent, label])
            continue
        best = f1.value[latent, label].item()
        for value, score in ((best, f1_score), (best / (2 - best), jaccard_score)):  # IoU = F1 / (2 - F1)
            tried = {t: overlap(hit, x >= t, score is f1_score) for t in (*x.tolist(), 0.0)}
            assert value == pytest.approx(max(tried.values()), abs=1e-12)
            threshold = f1.threshold[latent, label].item()
            assert threshold == max(t for t, value in tried.items() if value > max(tried.values()) - 1e-12)
            assert score(hit, x >= threshold) == pytest.approx(max(tried.values()), abs=1e-12)


def overlap(hit, predicted, f1):
    both, either = (hit & predicted).sum(), (hit | predicted).sum()
    return 2 * both / (both + either) if f1 else both / either


def test_thresholds_of_wide_bins_select_whole_bins():
    y = labels()
    best = best_f1(table(codes(), y, 3))
    for latent, label, x, hit in pairs(y):
        if hit.any():
            assert f1_score(hit, x >= best.threshold[latent, label].item()) == pytest.approx(
                best.value[latent, label].item()
            )


def test_10_bits_are_exact_for_float16_codes():
    x, y = codes(half=True), labels()
    for ranking in RANKINGS:
        torch.testing.assert_close(ranking(table(x, y, 10)), ranking(table(x, y, 23)), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bits", [10, 23])
def test_scale_changes_nothing(bits):
    x, y = codes(), labels()
    for factor in (2.0**-9, 2.0**5) if bits == 10 else (2.0**5, 10.0):
        for ranking in RANKINGS:
            found = ranking(table((x.double() * factor).float(), y, bits))
            torch.testing.assert_close(found, ranking(table(x, y, bits)), rtol=0, atol=0, equal_nan=True)


def test_blocks_change_nothing(monkeypatch):
    t = table(codes(), labels())
    expected = [ranking(t) for ranking in RANKINGS]
    for name, most in (("PAIRS", 3 * CLASSES), ("PAIRS", 1), ("ENTRIES", 1), ("ENTRIES", 700)):
        with monkeypatch.context() as patched:
            patched.setattr(tie_groups, name, most)
            assert len(list(tie_groups.blocks(t))) > 1
            for ranking, value in zip(RANKINGS, expected, strict=True):
                torch.testing.assert_close(ranking(t), value, rtol=0, atol=0, equal_nan=True)


def test_dead_latents_rank_at_random_and_a_class_of_all_tokens_has_no_auroc():
    y = torch.zeros(N, dtype=torch.long)
    t = table(codes(), y)
    torch.testing.assert_close(average_precision(t)[:, 0], torch.ones(LATENTS).double(), rtol=1e-12, atol=0)
    assert torch.isnan(auroc(t)).all() and (best_f1(t).value[:, 0] == 1).all()
    assert (auroc(table(torch.zeros(N, 1), labels()))[0, :3] == 0.5).all()


@pytest.mark.parametrize("above", [0, 1, 5, 14, 15, 16, 17, 40, 1000, 10**7, 10**12])
def test_rank_sums_are_those_in_fractions(above):
    """Far down a ranking too, where differences of harmonic numbers have no digits left."""
    sizes = [1, 2, 3, 10, 15, 16, 17, 200]
    inverse, places = rank_sums(torch.full((len(sizes),), above), torch.tensor(sizes))
    for i, size in enumerate(sizes):
        assert inverse[i].item() == pytest.approx(
            float(sum(Fraction(1, above + 1 + j) for j in range(size))), rel=1e-13
        )
        expected = float(sum(Fraction(j, above + 1 + j) for j in range(size)))
        assert places[i].item() == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(("above", "size"), [(0, 10**6), (40, 10**6), (10**6, 10**6), (10**6, 499_999), (10**8, 10**6)])
def test_rank_sums_of_large_groups(above, size):
    j = np.arange(size, dtype=np.longdouble)
    inverse, places = rank_sums(torch.tensor([above]), torch.tensor([size]))
    assert inverse.item() == pytest.approx(float((1 / (above + 1 + j)).sum()), rel=1e-13)
    assert places.item() == pytest.approx(float((j / (above + 1 + j)).sum()), rel=1e-13)

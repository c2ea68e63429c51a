"""Segmentation numbers: against scikit-learn, additive, and defined where classes are missing."""

import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from saev.metrics.segmentation import (
    accuracy,
    accuracy_of_sets,
    iou,
    mean_iou,
    overlap,
    overlap_of_sets,
)

C = 6


@pytest.fixture
def drawn():
    rng = torch.Generator().manual_seed(0)
    true = torch.randint(-1, C, (20, 30), generator=rng)
    return true, torch.where(torch.rand(20, 30, generator=rng) < 0.5, true.clamp_min(0), torch.randint(0, C, (20, 30)))


def test_iou_and_accuracy_are_those_of_scikit_learn(drawn):
    true, predicted = drawn
    kept = true >= 0
    counts = overlap(true, predicted, C)
    matrix = confusion_matrix(true[kept], predicted[kept], labels=range(C))
    assert counts.tolist() == [matrix.diagonal().tolist(), matrix.sum(1).tolist(), matrix.sum(0).tolist()]
    expected = jaccard_score(true[kept], predicted[kept], average=None)
    torch.testing.assert_close(iou(counts), torch.from_numpy(expected), rtol=1e-12, atol=0)
    assert float(accuracy(counts)) == pytest.approx(accuracy_score(true[kept], predicted[kept]), rel=1e-12)


def test_counts_add_up_over_batches(drawn):
    true, predicted = drawn
    halves = overlap(true[:7], predicted[:7], C) + overlap(true[7:], predicted[7:], C)
    assert torch.equal(halves, overlap(true, predicted, C))


def test_a_class_that_is_only_predicted_counts_as_0_and_an_absent_one_not_at_all():
    counts = overlap(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), 4)
    assert iou(counts)[:3].tolist() == [0.5, 1.0, 0.0] and iou(counts)[3].isnan()
    assert float(mean_iou(counts)) == 0.5


def test_sets_of_classes_agree_with_scikit_learn():
    rng = torch.Generator().manual_seed(1)
    true, predicted = (torch.rand(50, 4, generator=rng) < 0.4 for _ in range(2))
    counts = overlap_of_sets(true, predicted)
    expected = jaccard_score(true.numpy(), predicted.numpy(), average=None)
    torch.testing.assert_close(iou(counts), torch.from_numpy(expected), rtol=1e-12, atol=0)
    agree = float((true == predicted).double().mean())
    assert float(accuracy_of_sets(counts, torch.tensor(50))) == pytest.approx(agree, rel=1e-12)

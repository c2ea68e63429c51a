"""Agreement of predicted with true classes, from int64 counts that add up over batches, images and processes.

    confusion [true, predicted] --margins--> overlap: (hits, true, predicted) of each class --> IoU, accuracy

IoU and accuracy need the three margins alone, which are 3 C numbers where the matrix has C^2.
"""

import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor


def confusion(
    true: Int[Tensor, "..."], predicted: Int[Tensor, "..."], n_classes: int
) -> Int64[Tensor, "true predicted"]:
    """How many places of each true class are predicted as each class; places whose true class is below 0 are left out.

    >>> confusion(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    counted = true >= 0
    cells = true[counted].long() * n_classes + predicted[counted].long()
    return torch.bincount(cells, minlength=n_classes**2).view(n_classes, n_classes)


def margins(matrix: Int64[Tensor, "true predicted"]) -> Int64[Tensor, "3 classes"]:
    """The overlap (hits, true, predicted) of each class of a confusion matrix."""
    return torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])


def overlap(true: Int[Tensor, "..."], predicted: Int[Tensor, "..."], n_classes: int) -> Int64[Tensor, "3 classes"]:
    """`margins(confusion(...))` without the matrix.

    >>> overlap(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 1]), 2)
    tensor([[1, 1],
            [2, 1],
            [1, 2]])
    """
    counted = true >= 0
    true, predicted = true[counted].long(), predicted[counted].long()
    return torch.stack([torch.bincount(x, minlength=n_classes) for x in (true[true == predicted], true, predicted)])


def overlap_of_sets(
    true: Bool[Tensor, "places classes"], predicted: Bool[Tensor, "places classes"]
) -> Int64[Tensor, "3 classes"]:
    """The overlap where a place may have any number of classes."""
    return torch.stack([(true & predicted).sum(0), true.sum(0), predicted.sum(0)])


def iou(counts: Int64[Tensor, "3 classes"]) -> Float64[Tensor, " classes"]:
    """hits / (true + predicted - hits) of each class; NaN for one that is neither there nor predicted.

    >>> iou(torch.tensor([[1, 1, 0], [2, 1, 0], [1, 2, 0]]))
    tensor([0.5000, 0.5000,    nan], dtype=torch.float64)
    """
    hits, true, predicted = counts.double()
    return hits / (true + predicted - hits)


def mean_iou(counts: Int64[Tensor, "3 classes"]) -> Float64[Tensor, ""]:
    """The mean of `iou` over the classes that are there or predicted: a class that is only predicted counts as 0."""
    return iou(counts).nanmean()


def accuracy(counts: Int64[Tensor, "3 classes"]) -> Float64[Tensor, ""]:
    """Share of the counted places, pixels or patches, whose one class is the predicted one; NaN without any."""
    hits, true, _ = counts.double()
    return hits.sum() / true.sum()


def accuracy_of_sets(counts: Int64[Tensor, "3 classes"], n: Int64[Tensor, ""]) -> Float64[Tensor, ""]:
    """Share of the (place, class) pairs of `n` places that are predicted rightly, for `overlap_of_sets`."""
    hits, true, predicted = counts.double()
    return 1 - (true + predicted - 2 * hits).sum() / (n * counts.shape[1])

"""Agreement of predicted with true classes, from int64 counts that add up over batches, images and processes.

    overlap: (hits, true, predicted) of each class --> IoU, accuracy

torchmetrics' JaccardIndex keeps the C x C confusion matrix of which these 3 C counts are the margins, takes one class per token,
and scores a class without any token 0 instead of leaving it out.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor


def overlap(true: Int[Tensor, "..."], predicted: Int[Tensor, "..."], n_classes: int) -> Int64[Tensor, "3 classes"]:
    """Per class the number of tokens that are correctly predicted, of that class, and predicted as it; true < 0 is left out.

    >>> overlap(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 1]), 2)
    tensor([[1, 1],
            [2, 1],
            [1, 2]])
    """
    counted = true >= 0
    true, predicted = true[counted].long(), predicted[counted].long()
    return torch.stack([torch.bincount(x, minlength=n_classes) for x in (true[true == predicted], true, predicted)])


def overlap_of_sets(
    true: Bool[Tensor, "tokens classes"], predicted: Bool[Tensor, "tokens classes"]
) -> Int64[Tensor, "3 classes"]:
    """The overlap where a token may have any number of classes."""
    return torch.stack([(true & predicted).sum(0), true.sum(0), predicted.sum(0)])


def overlap_by_image(
    logits: Float[Tensor, "rows classes"],
    labels: Int64[Tensor, " rows"] | Bool[Tensor, "rows classes"],
    image: Int64[Tensor, " rows"],
    n_images: int,
) -> Int64[Tensor, "3 images classes"]:
    """The overlap of each image. Predicted is the class of the largest logit (labels outside 0 to C - 1 are left out), or for sets
    of classes each with a logit above 0."""
    n = logits.shape[1]
    if labels.ndim == 1:
        true = torch.where((labels >= 0) & (labels < n), image * n + labels, -1)
        return overlap(true, image * n + logits.argmax(1), n_images * n).view(3, n_images, n)
    predicted, counts = logits > 0, labels.new_zeros(3, n_images, n, dtype=torch.int64)
    for count, sets in zip(counts, (labels & predicted, labels, predicted), strict=True):
        count.index_add_(0, image, sets.long())
    return counts


def iou(counts: Int64[Tensor, "3 classes"]) -> Float64[Tensor, " classes"]:
    """hits / (true + predicted - hits) per class; NaN for a class that neither occurs nor is predicted.

    >>> iou(torch.tensor([[1, 1, 0], [2, 1, 0], [1, 2, 0]]))
    tensor([0.5000, 0.5000,    nan], dtype=torch.float64)
    """
    hits, true, predicted = counts.double()
    return hits / (true + predicted - hits)


def mean_iou(counts: Int64[Tensor, "3 classes"]) -> Float64[Tensor, ""]:
    """The mean of `iou` over the classes that occur or are predicted: a class that is only predicted counts as 0."""
    return iou(counts).nanmean()


def accuracy(counts: Int64[Tensor, "3 classes"]) -> Float64[Tensor, ""]:
    """Fraction of the counted tokens whose class is the predicted one; NaN without any."""
    hits, true, _ = counts.double()
    return hits.sum() / true.sum()


def accuracy_of_sets(counts: Int64[Tensor, "3 classes"], n: Int64[Tensor, ""]) -> Float64[Tensor, ""]:
    """Fraction of the (token, class) pairs of `n` tokens that are predicted correctly, for `overlap_of_sets`."""
    hits, true, predicted = counts.double()
    return 1 - (true + predicted - 2 * hits).sum() / (n * counts.shape[1])

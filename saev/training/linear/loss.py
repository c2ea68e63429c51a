"""The loss of a linear probe: softmax cross-entropy of exclusive classes, or the mean over classes of binary ones."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Targets = Int64[Tensor, " batch"] | Bool[Tensor, "batch classes"]
ClassWeights = Float[Tensor, " classes"] | Float[Tensor, "2 classes"]


def token_losses(
    logits: Float[Tensor, "batch classes"], labels: Targets, weights: ClassWeights | None = None
) -> Float[Tensor, " batch"]:
    """The loss of each token in nats, times the weight of its class (exclusive), or of (negative, positive) of each class."""
    if labels.ndim == 1:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses if weights is None else losses * weights[labels]
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return (losses if weights is None else losses * torch.where(labels, weights[1], weights[0])).mean(1)


def class_weights(
    kind: str, n_tokens: int, positives: Int64[Tensor, " classes"], exclusive: bool
) -> ClassWeights | None:
    """`balanced`: the total weight of every class is the same, as in scikit-learn, and the mean over tokens is 1; `none`: None.

    Exclusive classes weigh n / (C n_c), with C the classes that occur; else positives n / (2 n_c), negatives n / (2 (n - n_c)).
    """
    if kind == "none":
        return None
    sides = positives[None].double() if exclusive else torch.stack([n_tokens - positives, positives]).double()
    n_sides = int((positives > 0).sum()) if exclusive else 2
    weights = torch.where(sides > 0, n_tokens / (n_sides * sides), 0).float()
    return weights[0] if exclusive else weights


def prior_logits(n_tokens: int, positives: Int64[Tensor, " classes"], exclusive: bool) -> Float[Tensor, " classes"]:
    """The best constant logits, the initial bias; one token is added to each side, so that all are finite."""
    positive = positives.double() + 1
    return (positive.log() if exclusive else (positive / (n_tokens - positives + 1)).log()).float()

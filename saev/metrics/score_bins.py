"""Average precision of many scores in bounded memory: additive counts per class and score bin.

Scores are log-odds x. Bins are uniform in asinh(x / 8): 1/64 wide at 0, 1/12 at 40, 1/500 of x for large x, so that neither the
many tokens of low odds nor an overconfident probe are tied. Tokens within a bin count as tied.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saev.metrics.ranking import precision_sums

SOFT, PER_UNIT, LARGEST = 8, 512, 4096
N_BINS = 2 * LARGEST + 1


def bins(log_odds: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The bin index of each score, ascending; the last bin starts at about 12,000.

    >>> bins(torch.tensor([-torch.inf, 0.0, 0.01, 40.0]))
    tensor([   0, 4096, 4097, 5280])
    """
    return ((log_odds / SOFT).asinh() * PER_UNIT).round().clamp(-LARGEST, LARGEST).long() + LARGEST


def cells(log_odds: Float[Tensor, "tokens classes"]) -> Int64[Tensor, "tokens classes"]:
    """The index of each score's bin in the concatenated bins of all classes."""
    return bins(log_odds) + torch.arange(log_odds.shape[1], device=log_odds.device) * N_BINS


def softmax_log_odds(logits: Float[Tensor, "tokens classes"]) -> Float[Tensor, "tokens classes"]:
    """log p / (1 - p) of each class, p being its softmax probability; accurate also where p is close to 1."""
    log_p = logits.log_softmax(1)
    top = logits.argmax(1, keepdim=True)
    others = logits.scatter(1, top, -torch.inf).logsumexp(
        1, keepdim=True
    )  # the largest class: 1 - p would lose all digits
    return (log_p - torch.log(-torch.expm1(log_p))).scatter(1, top, logits.gather(1, top) - others)


def average_precision(
    positives: Int64[Tensor, "classes bins"], tokens: Int64[Tensor, "classes bins"]
) -> Float64[Tensor, " classes"]:
    """Of tokens in these bins, those of a bin tied (`saev.metrics.ranking`); NaN for a class without positives."""
    return precision_sums(positives.flip(1), tokens.flip(1)).sum(1) / positives.sum(1)

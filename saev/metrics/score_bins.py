"""Average precision of many scores in bounded memory: counts per class and bin of score, which add up.

Scores are log-odds x. Bins are even in asinh(x / 8): 1/64 wide about 0, 1/12 at 40, 1/500 of x far out, so that neither the
many tokens of little odds nor a probe that is far too sure of itself end up tied. Within a bin order is not known and tokens
are taken as tied, which is how scikit-learn's average_precision_score takes equal scores.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

SOFT, PER_UNIT, LARGEST = 8, 512, 4096
N_BINS = 2 * LARGEST + 1


def bins(log_odds: Float[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The bin of each score, ascending with it; the outermost one from 12,000 on.

    >>> bins(torch.tensor([-torch.inf, 0.0, 0.01, 40.0]))
    tensor([   0, 4096, 4097, 5280])
    """
    return ((log_odds / SOFT).asinh() * PER_UNIT).round().clamp(-LARGEST, LARGEST).long() + LARGEST


def cells(log_odds: Float[Tensor, "tokens classes"]) -> Int64[Tensor, "tokens classes"]:
    """The place of each score among all classes' bins, those of a class after those of the one before."""
    return bins(log_odds) + torch.arange(log_odds.shape[1], device=log_odds.device) * N_BINS


def softmax_log_odds(logits: Float[Tensor, "tokens classes"]) -> Float[Tensor, "tokens classes"]:
    """log p / (1 - p) of each class, p being its fraction of the softmax; to all digits, however close p is to 1."""
    log_p = logits.log_softmax(1)
    top = logits.argmax(1, keepdim=True)
    beside = logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)  # 1 - p of the largest would be lost
    return (log_p - torch.log(-torch.expm1(log_p))).scatter(1, top, logits.gather(1, top) - beside)


def average_precision(
    positives: Int64[Tensor, "classes bins"], tokens: Int64[Tensor, "classes bins"]
) -> Float64[Tensor, " classes"]:
    """Sum over bins from the highest of (gain in recall) * (precision down to there); NaN for a class without positives."""
    found = positives.flip(1).cumsum(1).double()
    precision = found / tokens.flip(1).cumsum(1).clamp_min(1)
    gain = positives.flip(1).double() / found[:, -1:]
    return (gain * precision).sum(1)

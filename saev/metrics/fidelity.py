"""How much of a model's output is preserved when its activations are replaced: features and predictions."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax
from torchmetrics import Metric


def relative_error_compute(squared_error: Float[Tensor, "*m"], square: Float[Tensor, "*#m"]) -> Float[Tensor, "*m"]:
    """Sum over tokens of `||y' - y||^2` over the sum of `||y||^2`, y being the clean run's: 0 is unchanged."""
    return squared_error / square


def recovered(error: Float[Tensor, "*m"], reference: Float[Tensor, "*#m"]) -> Float[Tensor, "*m"]:
    """`1 - error / reference`: 1 for no loss, 0 for the loss of the reference (mean ablation).

    >>> recovered(torch.tensor([0.0, 0.5, 2.0]), torch.tensor(2.0)).tolist()
    [1.0, 0.75, 0.0]
    """
    return 1 - error / reference


def kl_divergence(clean: Float[Tensor, "n classes"], changed: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Per row, KL(softmax(clean) || softmax(changed)) of logits, in nats and float64."""
    p, q = log_softmax(clean.double(), -1), log_softmax(changed.double(), -1)
    return (p.exp() * (p - q)).sum(-1)


class FeatureFidelity(Metric):
    """Features [n, width] with and without a change: relative squared error, and mean over rows of their cosine."""

    full_state_update = False
    n: Int[Tensor, ""]
    squared_error: Float[Tensor, ""]
    square: Float[Tensor, ""]
    cosine: Float[Tensor, ""]

    def __init__(self):
        super().__init__()
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("squared_error", "square", "cosine"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, clean: Float[Tensor, "n width"], changed: Float[Tensor, "n width"]) -> None:
        y, other = clean.double(), changed.double()
        self.n = self.n + len(y)
        self.squared_error = self.squared_error + (other - y).square().sum()
        self.square = self.square + y.square().sum()
        self.cosine = self.cosine + cosine_similarity(y, other, dim=-1).sum()

    def compute(self) -> dict[str, Tensor]:
        """`error` and `cosine`; NaN without rows."""
        return {"error": relative_error_compute(self.squared_error, self.square), "cosine": self.cosine / self.n}


class PredictionFidelity(Metric):
    """Logits [n, classes] with and without a change: fraction of equal top-1 classes, mean KL(clean || changed) in nats."""

    full_state_update = False
    n: Int[Tensor, ""]
    agree: Int[Tensor, ""]
    kl: Float[Tensor, ""]

    def __init__(self):
        super().__init__()
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("agree", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("kl", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, clean: Float[Tensor, "n classes"], changed: Float[Tensor, "n classes"]) -> None:
        self.n = self.n + len(clean)
        self.agree = self.agree + (clean.argmax(-1) == changed.argmax(-1)).sum()
        self.kl = self.kl + kl_divergence(clean, changed).sum()

    def compute(self) -> dict[str, Tensor]:
        """`agreement` and `kl`; NaN without rows."""
        return {"agreement": self.agree.double() / self.n, "kl": self.kl / self.n}


def linear_logits(pooled: Float[Tensor, "n width"], head: Mapping[str, Tensor]) -> Float[Tensor, "n classes"]:
    """Logits of `head`: {weight [classes, width], bias [classes]}, or cosines times `logit_scale` where it has one.

    The second is zero-shot classification: the rows of `weight` are the embeddings of the classes' texts. ValueError for a
    weight of another width.
    """
    weight = head["weight"].to(pooled)
    if weight.shape[1] != pooled.shape[1]:
        raise ValueError(
            f"head: its weight takes {weight.shape[1]} dimensions, the pooled features have {pooled.shape[1]}: pass a head "
            "trained on this model's output."
        )
    if "logit_scale" in head:
        unit = torch.nn.functional.normalize(pooled, dim=-1)
        return head["logit_scale"].to(pooled) * unit @ torch.nn.functional.normalize(weight, dim=-1).T
    bias = head["bias"].to(pooled) if "bias" in head else None
    return torch.nn.functional.linear(pooled, weight, bias)

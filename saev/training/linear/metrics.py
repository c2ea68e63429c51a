"""Metrics of a linear probe over the validation tokens: sums and counts that add up over batches and processes."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torchmetrics import Metric

from saev.metrics import score_bins, segmentation
from saev.training.linear.loss import ClassWeights, Targets, token_losses


class ProbeLoss(Metric):
    """Mean over tokens with a class of the cross-entropy (`ce`, nats) and of the class-weighted cross-entropy (`loss`).

    Tokens of other classes (label C) count in none of these numbers.

    `accuracy` and `miou` are of single tokens, predicted as the class of the largest logit, or as all classes with logits > 0.
    """

    full_state_update = False
    n: Int64[Tensor, ""]
    ce: Float64[Tensor, ""]
    loss: Float64[Tensor, ""]
    overlap: Int64[Tensor, "3 classes"]

    def __init__(self, n_classes: int, exclusive: bool):
        super().__init__()
        self.exclusive = exclusive
        zero = torch.zeros((), dtype=torch.float64)
        states = {"n": zero.long(), "ce": zero, "loss": zero.clone(), "overlap": torch.zeros(3, n_classes).long()}
        for name, state in states.items():
            self.add_state(name, state, dist_reduce_fx="sum")

    def update(
        self, logits: Float[Tensor, "batch classes"], labels: Targets, weights: ClassWeights | None = None
    ) -> None:
        known = labels < logits.shape[1] if self.exclusive else labels.new_ones(len(labels))
        targets = labels.clamp(max=logits.shape[1] - 1) if self.exclusive else labels
        ce = token_losses(logits, targets)
        loss = ce if weights is None else token_losses(logits, targets, weights)
        self.n = self.n + known.sum()
        self.ce = self.ce + torch.where(known, ce, 0).sum(dtype=torch.float64)
        self.loss = self.loss + torch.where(known, loss, 0).sum(dtype=torch.float64)
        if self.exclusive:
            true = torch.where(known, labels, -1)
            self.overlap = self.overlap + segmentation.overlap(true, logits.argmax(1), logits.shape[1])
        else:
            self.overlap = self.overlap + segmentation.overlap_of_sets(labels, logits > 0)

    def compute(self) -> dict[str, Tensor]:
        """Scalars; `accuracy` of labels that are not exclusive is that of (token, class) pairs."""
        hits = self.overlap
        accuracy = segmentation.accuracy(hits) if self.exclusive else segmentation.accuracy_of_sets(hits, self.n)
        errors = {"ce": self.ce / self.n, "loss": self.loss / self.n}
        return {**errors, "accuracy": accuracy, "miou": segmentation.mean_iou(hits), "n_tokens": self.n}


class ProbeScores(Metric):
    """Average precision of each class, with tokens ranked by binned log-odds (`saev.metrics.score_bins`). Memory: 128 KiB per class."""

    full_state_update = False
    tokens: Int64[Tensor, "classes bins"]
    positives: Int64[Tensor, "classes bins"]

    def __init__(self, n_classes: int, exclusive: bool):
        super().__init__()
        self.exclusive = exclusive
        for name in ("tokens", "positives"):
            empty = torch.zeros(n_classes, score_bins.N_BINS, dtype=torch.int64)
            self.add_state(name, empty, dist_reduce_fx="sum")

    def update(self, logits: Float[Tensor, "batch classes"], labels: Targets) -> None:
        scores = score_bins.softmax_log_odds(logits) if self.exclusive else logits
        cells = score_bins.cells(scores)
        if self.exclusive:  # a token of another class is a negative of all: the bin beyond the last is cut off
            beyond = cells.new_full((len(cells), 1), self.tokens.numel())
            positive = torch.cat([cells, beyond], 1).gather(1, labels[:, None]).flatten()
        else:
            positive = cells[labels]
        for name, index in (("tokens", cells.flatten()), ("positives", positive)):
            state = getattr(self, name)
            counts = torch.bincount(index, minlength=state.numel() + 1)[: state.numel()]
            setattr(self, name, state + counts.view_as(state))

    def compute(self) -> Float64[Tensor, " classes"]:
        """NaN for classes without a positive."""
        return score_bins.average_precision(self.positives, self.tokens)

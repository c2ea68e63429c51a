"""TopK, and the threshold that top-k sparsifiers learn for evaluation."""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from saev.nn.sparsifiers.base import Sparsifier
from saev.nn.sparsifiers.settings import BatchTopK, TopK
from saev.ops import collective
from saev.ops.sparse import SparseCodes, topk_select
from saev.ops.topk import topk_codes

Settings = TypeVar("Settings", TopK, BatchTopK)


class Thresholded(Sparsifier[Settings]):
    """A sparsifier with a learned threshold theta on all pre-activations, for evaluation.

    theta tracks the smallest positive value kept in a batch: the first is copied, then an exponential mean with a decay of
    n/(n + 10) over the first 1000 steps n (so a short run is not held back by its first steps) and of 0.999 after
    them. It is a float32 buffer and part of the checkpoint.
    """

    theta: Float[Tensor, ""]
    n_updates: Tensor

    def _add_threshold(self) -> None:
        self.register_buffer("theta", torch.zeros((), dtype=torch.float32))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @property
    def threshold(self) -> Float[Tensor, ""] | None:
        return getattr(self, "theta", None)

    @torch.no_grad()
    def update_threshold(self, kept: Float[Tensor, " nnz"]) -> None:
        """Move theta towards the smallest positive value of `kept`, over all processes."""
        none = kept.new_full((1,), torch.inf)  # `kept` may be empty
        smallest = torch.cat([none, torch.where(kept > 0, kept, torch.inf)]).min().float()
        smallest = collective.all_reduce_min(smallest)
        n = self.n_updates.float()
        decay = torch.where(n < 1000, n / (n + 10), 0.999)
        moved = torch.lerp(smallest, self.theta, decay)
        valid = torch.isfinite(smallest)  # False for a batch without any positive value
        self.theta.copy_(torch.where(valid, moved, self.theta))
        self.n_updates.add_(valid)


class TopKSparsifier(Thresholded[TopK]):
    """See `TopK`; with `threshold`, theta tracks the mean over tokens of their smallest positive kept value."""

    def __init__(self, settings: TopK, d_sae: int):
        super().__init__(settings, d_sae)
        if settings.threshold:
            self._add_threshold()

    @property
    def k_per_token(self) -> int | None:
        return None if self.settings.threshold else self.settings.k

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h > self.theta, h, 0.0) if self.settings.threshold else topk_codes(h, self.settings.k)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        codes = topk_select(h, self.settings.k)
        if self.settings.threshold:
            smallest = torch.where(codes.values > 0, codes.values, torch.inf).view(-1, self.settings.k).amin(1)
            positive = torch.isfinite(smallest)  # False for tokens without any positive value
            summed = collective.all_reduce_sum(torch.where(positive, smallest, 0).sum(0, keepdim=True))
            self.update_threshold(summed / collective.all_reduce_sum(positive.sum()))
        return codes

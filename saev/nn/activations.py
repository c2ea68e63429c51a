"""How pre-activations become codes: one small final module per architecture, given to the one autoencoder class.

Each knows its training rule, its evaluation rule (which never depends on the batch) and its sparsity penalty.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.ops.topk import batchtopk_codes, topk_codes


class Activation(nn.Module, ABC):
    """Pre-activations h -> codes f >= 0, and what sparsity costs."""

    @abstractmethod
    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Codes; by the training rule in training mode, by the evaluation rule otherwise."""

    @abstractmethod
    def penalty(self, f: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
        """The sparsity term of the loss, with its coefficient: a mean over the batch."""


class ReLU(Activation):
    """f = max(h, 0), made sparse by an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023).

    The penalty is sparsity * mean over the batch of sum_j f_j. Atoms have unit norm, so it needs no weighting by theirs.
    """

    def __init__(self, sparsity: float):
        super().__init__()
        if not sparsity >= 0:
            raise ValueError(f"sparsity={sparsity}: the L1 coefficient is 0 or more, e.g. sparsity=1e-3.")
        self.sparsity = float(sparsity)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return h.relu()

    def penalty(self, f: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
        return self.sparsity * f.sum(1).mean()


class TopK(Activation):
    """The k largest of relu(h) per token (Gao et al. 2024, section 2.3)."""

    def __init__(self, k: int):
        super().__init__()
        self.k = _positive(k)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return topk_codes(h, self.k)

    def penalty(self, f: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
        return f.new_zeros(())


class BatchTopK(Activation):
    """The batch * k largest of relu(h) over the whole batch; in evaluation f = h [h > theta] (Bussmann et al. 2024).

    theta follows the least kept positive value: the first is copied, then an exponential mean with a decay of n/(n + 10)
    over the first 1000 steps n (so a short run is not held back by its first steps) and of 0.999 after them. It is a
    float32 buffer and part of the checkpoint.
    """

    theta: Float[Tensor, ""]
    n_updates: Tensor

    def __init__(self, k: int):
        super().__init__()
        self.k = _positive(k)
        self.register_buffer("theta", torch.zeros((), dtype=torch.float32))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        if not self.training:
            return torch.where(h > self.theta, h, 0.0).relu()
        f = batchtopk_codes(h, self.k)
        self._follow(f.detach())
        return f

    @torch.no_grad()
    def _follow(self, f: Float[Tensor, "batch d_sae"]) -> None:
        least = torch.where(f > 0, f, torch.inf).min().float()
        n = self.n_updates.float()
        decay = torch.where(n < 1000, n / (n + 10), 0.999)
        moved = torch.lerp(least, self.theta, decay)
        seen = torch.isfinite(least)  # a batch without any positive value says nothing
        self.theta.copy_(torch.where(seen, moved, self.theta))
        self.n_updates.add_(seen)

    def penalty(self, f: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
        return f.new_zeros(())


def _positive(k: int) -> int:
    if int(k) != k or k < 1:
        raise ValueError(f"k={k}: the number of active latents per token is an integer of at least 1, e.g. k=32.")
    return int(k)

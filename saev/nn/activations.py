"""How pre-activations become codes: one small final module per architecture, given to the one autoencoder class.

Called, an activation applies its evaluation rule, which never depends on the batch. Those that choose a fixed number of
latents in training (`Selecting`) say which by `select`; the others train by the rule they are evaluated with.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.ops.sparse import SparseCodes, batchtopk_select, topk_select
from saev.ops.topk import topk_codes

Codes = Tensor | SparseCodes


class Activation(nn.Module, ABC):
    """Pre-activations h -> codes f >= 0, and what sparsity costs."""

    @abstractmethod
    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Codes by the evaluation rule."""

    def penalty(self, f: Codes) -> Float[Tensor, ""]:
        """The sparsity term of the loss, with its coefficient: a mean over the batch (0 unless an activation has one)."""
        values = f.values if isinstance(f, SparseCodes) else f
        return values.new_zeros(())


class Selecting(Activation):
    """An activation that keeps a fixed number of latents in training."""

    @abstractmethod
    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        """The codes kept by the training rule, without a graph; may follow them with statistics."""


class ReLU(Activation):
    """f = max(h, 0), made sparse by an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023).

    The penalty is sparsity * mean over the batch of sum_j f_j. Atoms have unit norm, so it needs no weight of theirs.
    """

    def __init__(self, sparsity: float):
        super().__init__()
        if sparsity is None or not sparsity >= 0:
            raise ValueError(f"sparsity={sparsity}: the L1 coefficient is 0 or more, e.g. sparsity=1e-3.")
        self.sparsity = float(sparsity)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return h.relu()

    def penalty(self, f: Codes) -> Float[Tensor, ""]:
        assert isinstance(f, Tensor)
        return self.sparsity * f.sum(1).mean()


class TopK(Selecting):
    """The k largest of relu(h) per token (Gao et al. 2024, section 2.3)."""

    def __init__(self, k: int):
        super().__init__()
        self.k = _positive(k)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return topk_codes(h, self.k)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        return topk_select(h, self.k)


class BatchTopK(Selecting):
    """The batch * k largest of relu(h) over the whole batch; evaluated as f = h [h > theta] (Bussmann et al. 2024).

    theta follows the least kept positive value: the first is copied, then an exponential mean with a decay of
    n/(n + 10) over the first 1000 steps n (so a short run is not held back by its first steps) and of 0.999 after
    them. It is a float32 buffer and part of the checkpoint.
    """

    theta: Float[Tensor, ""]
    n_updates: Tensor

    def __init__(self, k: int):
        super().__init__()
        self.k = _positive(k)
        self.register_buffer("theta", torch.zeros((), dtype=torch.float32))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h > self.theta, h, 0.0)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        codes = batchtopk_select(h, self.k)
        self._follow(codes.values)
        return codes

    @torch.no_grad()
    def _follow(self, kept: Float[Tensor, " nnz"]) -> None:
        none = kept.new_full((1,), torch.inf)  # there may be nothing to take a minimum of
        least = torch.cat([none, torch.where(kept > 0, kept, torch.inf)]).min().float()
        n = self.n_updates.float()
        decay = torch.where(n < 1000, n / (n + 10), 0.999)
        moved = torch.lerp(least, self.theta, decay)
        seen = torch.isfinite(least)  # a batch without any positive value says nothing
        self.theta.copy_(torch.where(seen, moved, self.theta))
        self.n_updates.add_(seen)


def _positive(k: int) -> int:
    if k is None or int(k) != k or k < 1:
        raise ValueError(f"k={k}: the number of active latents per token is an integer of at least 1, e.g. k=32.")
    return int(k)

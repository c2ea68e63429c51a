"""How pre-activations become codes: one small final module per architecture, given to the one autoencoder class.

Called, a sparsifier applies its evaluation rule, which never depends on the batch. Those that choose a fixed number of
latents in training (`Selecting`) say which by `select`; the others train by the rule they are evaluated with, and may
give what is left of it as pairs where that is little.
"""

import inspect
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.ops import collective
from saev.ops.sparse import SparseCodes, batchtopk_select, topk_select
from saev.ops.topk import topk_codes

Codes = Tensor | SparseCodes
# Share of tokens on which a latent with a threshold of its own fires at the start. From b_enc = 0 half of all fire on
# each token, and a penalty takes thousands of steps to undo that; from here 200 steps suffice (docs/log).
ACTIVE = 0.02


class Sparsifier(nn.Module, ABC):
    """Pre-activations h -> codes f >= 0, and what sparsity costs."""

    owns_bias = False  # its own biases take the place of b_enc, which stays 0
    free_atoms = False  # atoms keep norms of their own, which the penalty weights
    selects_codes = True  # `select` gives codes, not the pre-activations of which `of_pairs` makes them
    copies = 5  # at most so many [batch, d_sae] arrays does a step hold at once (docs/sweeps.md has what was measured)

    def prepare(self, d_sae: int) -> None:
        """Make the parameters and buffers that there is one of per latent."""

    def start(self, h: Float[Tensor, "n d_sae"]) -> Float[Tensor, " d_sae"] | None:
        """Set thresholds by the pre-activations of a sample; or give the bias that is to do this (None: neither).

        Called again with the same pre-activations at another scale, it does the same at that scale.
        """

    @abstractmethod
    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Codes by the evaluation rule, with a graph."""

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        """The codes by the training rule as pairs, without a graph; None where a matrix is as good, made by `forward`.

        Or, not `selects_codes`, the pre-activations of all pairs that have a part in the loss or in its gradient.
        """
        return None

    def of_pairs(self, at: SparseCodes) -> SparseCodes:
        """The codes, with a graph, of what `select` gave: that itself, or what `forward` makes of such pre-activations."""
        return at

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        """The sparsity term of the loss, with its coefficient: a mean over the batch (0 unless a sparsifier has one).

        `at` are the pre-activations, or the pairs of which f is made.
        """
        return w_dec.new_zeros(())

    def auxiliary(
        self,
        z: Float[Tensor, "batch d_model"],
        at: Codes,
        w_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
    ) -> Float[Tensor, ""]:
        """A term of the loss of its own, on the scale of the reconstruction (0 unless a sparsifier has one)."""
        return z.new_zeros(())

    def follow(self, l0: Float[Tensor, ""]) -> None:
        """After a step with `l0` active latents per token: move what is steered by that."""

    def project(self) -> None:
        """After a step: back onto the constraints."""

    def bake(self) -> None:
        """Take the form that is saved."""

    def gate_bias(self, b_enc: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        """The bias of the pre-activations whose sign decides about firing: with it dead latents are revived."""
        return b_enc

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }


class Selecting(Sparsifier):
    """A sparsifier that keeps a fixed number of latents in training.

    theta follows the least kept positive value of the whole batch: the first is copied, then an exponential mean with a decay of
    n/(n + 10) over the first 1000 steps n (so a short run is not held back by its first steps) and of 0.999 after
    them. It is a float32 buffer and part of the checkpoint.
    """

    theta: Float[Tensor, ""]
    n_updates: Tensor

    def __init__(self, k: int):
        super().__init__()
        if k is None or int(k) != k or k < 1:
            raise ValueError(f"k={k}: the number of active latents per token is an integer of at least 1, e.g. k=32.")
        self.k = int(k)

    def _make_theta(self) -> None:
        self.register_buffer("theta", torch.zeros((), dtype=torch.float32))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        """The codes kept by the training rule, without a graph; may follow them with statistics."""

    @torch.no_grad()
    def _follow_least(self, kept: Float[Tensor, " nnz"]) -> None:
        none = kept.new_full((1,), torch.inf)  # there may be nothing to take a minimum of
        least = torch.cat([none, torch.where(kept > 0, kept, torch.inf)]).min().float()
        least = collective.all_reduce_min(least)
        n = self.n_updates.float()
        decay = torch.where(n < 1000, n / (n + 10), 0.999)
        moved = torch.lerp(least, self.theta, decay)
        seen = torch.isfinite(least)  # a batch without any positive value says nothing
        self.theta.copy_(torch.where(seen, moved, self.theta))
        self.n_updates.add_(seen)


class TopK(Selecting):
    """The k largest of relu(h) per token (Gao et al. 2024, section 2.3); with `threshold` evaluated as f = h [h > theta].

    The threshold lets the number of active latents vary with the token (their appendix F), theta as in BatchTopK.
    """

    def __init__(self, k: int, threshold: bool = False):
        super().__init__(k)
        self.threshold = bool(threshold)
        if self.threshold:
            self._make_theta()

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h > self.theta, h, 0.0) if self.threshold else topk_codes(h, self.k)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        codes = topk_select(h, self.k)
        if self.threshold:
            least = torch.where(codes.values > 0, codes.values, torch.inf).view(-1, self.k).amin(1)
            positive = torch.isfinite(least)  # tokens without any positive value say nothing
            summed = collective.all_reduce_sum(torch.where(positive, least, 0).sum(0, keepdim=True))
            self._follow_least(summed / collective.all_reduce_sum(positive.sum()))
        return codes


class BatchTopK(Selecting):
    """The batch * k largest of relu(h) over the whole batch; evaluated as f = h [h > theta] (Bussmann et al. 2024)."""

    def __init__(self, k: int):
        super().__init__(k)
        self._make_theta()

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h > self.theta, h, 0.0)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes:
        codes = batchtopk_select(h, self.k)
        self._follow_least(codes.values)
        return codes


def firing_threshold(h: Float[Tensor, "n d_sae"], l0: float | None = None) -> Float[Tensor, " d_sae"]:
    """Per latent the value that its pre-activations exceed on an equal fraction of the sample: l0 of d_sae, or ACTIVE."""
    share = ACTIVE if l0 is None else min(0.5, l0 / h.shape[1])
    return h.topk(min(len(h), max(1, round(share * len(h))) + 1), dim=0).values[-1]

"""The interface of a sparsifier's module.

Called, it applies the evaluation rule, which never depends on the batch. In training, `select` may give (latent, value) pairs
instead: those of top-k sparsifiers are chosen by a different rule, the others' save work where few latents are active.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.sparsifiers.settings import SparsifierSettings
from saev.ops.sparse import SparseCodes

Codes = Tensor | SparseCodes
Settings = TypeVar("Settings", bound=SparsifierSettings)
# Fraction of tokens on which a latent with a threshold fires at the start. From b_enc = 0 half of all latents fire on
# each token, and a penalty takes thousands of steps to undo that; from here 200 steps suffice (docs/log).
ACTIVE = 0.02
TIED = 1e-5  # pre-activations that differ by less, relative to their range, are equal up to rounding


class Sparsifier(nn.Module, ABC, Generic[Settings]):
    """Pre-activations h -> codes f >= 0, and the sparsity terms of the loss."""

    selects_codes = True  # `select` gives codes, not the pre-activations from which `codes_of` computes them

    def __init__(self, settings: Settings, d_sae: int):
        super().__init__()
        settings.check_width(d_sae)
        self.settings = settings

    @property
    def free_atoms(self) -> bool:
        """Whether atoms keep their norms, which the penalty weights; else they have unit norm."""
        return False

    @property
    def gate_bias(self) -> nn.Parameter | None:
        """The bias that decides whether a latent fires, where that is not b_enc; b_enc then stays 0."""
        return None

    @property
    def k_per_token(self) -> int | None:
        """k where the evaluation rule keeps the k largest pre-activations of each token; else None."""
        return None

    @property
    def threshold(self) -> Float[Tensor, "..."] | None:
        """What pre-activations must exceed in evaluation, a scalar or one value per latent, where that is the whole rule."""
        return None

    def initialise_threshold(self, h: Float[Tensor, "n d_sae"]) -> Float[Tensor, " d_sae"] | None:
        """Set thresholds from the pre-activations of a sample, or return the b_enc that acts as one (None: neither).

        Equivariant: for h scaled by a factor the thresholds scale by it.
        """

    @abstractmethod
    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Codes by the evaluation rule, with a graph."""

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        """Codes by the training rule as pairs, without a graph; None where the matrix that `forward` gives is as fast.

        Where not `selects_codes`: the pre-activations of all pairs that contribute to the loss or its gradient.
        """
        return None

    def codes_of(self, pairs: SparseCodes) -> SparseCodes:
        """The codes, with a graph, of the pairs that `select` gave."""
        return pairs

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        """The sparsity term of the loss, times its coefficient: a mean over the batch.

        `at` are the pre-activations, or the pairs from which f was computed.
        """
        return w_dec.new_zeros(())

    def auxiliary_loss(
        self,
        z: Float[Tensor, "batch d_model"],
        at: Codes,
        w_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
    ) -> Float[Tensor, ""]:
        """A further term of the loss, on the scale of the reconstruction error."""
        return z.new_zeros(())

    def update_controller(self, l0: Float[Tensor, ""]) -> None:
        """After a step with `l0` active latents per token: adapt the penalty's coefficient."""

    def project(self) -> None:
        """After a step: return parameters to their constraints."""

    def finalise(self) -> None:
        """Bring parameters into the form that is saved."""


def firing_threshold(h: Float[Tensor, "n d_sae"], l0: float | None = None) -> Float[Tensor, " d_sae"]:
    """Per latent the value that its pre-activations exceed on a fraction l0 / d_sae of the sample, by default ACTIVE.

    Values that are equal up to rounding fire together, on more tokens: a sample may have few distinct ones.
    """
    fraction = ACTIVE if l0 is None else min(0.5, l0 / h.shape[1])
    top = h.topk(min(len(h), max(1, round(fraction * len(h))) + 1), dim=0).values
    threshold, lowest_above = top[-1], top[-2:][0]
    equal = lowest_above - TIED * (top[0] - h.amin(0))
    if not bool((tied := threshold >= equal).any()):
        return threshold
    below = h.masked_fill(h >= equal, -torch.inf).amax(0)
    return torch.where(tied & below.isfinite(), below, threshold)

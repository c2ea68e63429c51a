"""How a baseline is learned: in passes over the stream, by statistics that add up."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.baseline import Baseline
from saev.nn.normalise import Normaliser


class Fitter(ABC):
    """One baseline in the making. A bank of them is fed the same batches:

        start ──▶ n_passes x ( update for every batch of an epoch ; finish_pass ) ──▶ dictionaries

    Nothing of a result depends on how tokens are split into batches (integers exactly, sums in float64), and the statistics
    of two halves of a pass, added up by `merge`, are those of the whole: that is how processes share a pass.
    `state_dict` holds all there is, as tensors and plain values, so that an interrupted fit goes on with the next batch.
    """

    n_passes: int = 1
    sample_tokens: int = 0  # how many normalised tokens `start` wants

    @abstractmethod
    def start(self, normaliser: Normaliser, sample: Float[Tensor, "n d_model"], n_tokens: int) -> None:
        """Before the first pass: the map to normalised activations, a shuffled sample of these, and an epoch's tokens.

        ValueError names the setting where so many tokens are too few.
        """

    @abstractmethod
    def update(self, z: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        """A batch of normalised activations of the pass under way; `token` numbers each token among all of the dataset."""

    @abstractmethod
    def finish_pass(self) -> Mapping[str, float]:
        """Take in what the pass has found and begin the next; numbers of the pass, for the log (inertia, ...)."""

    @abstractmethod
    def merge(self, other: "Fitter") -> None:
        """Add the statistics of the pass under way that `other`, which started from the same state, has collected."""

    @abstractmethod
    def dictionaries(self) -> Mapping[str, Baseline]:
        """After the last pass: the finished baselines by what tells them apart ("" where there is one)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that `update` and `finish_pass` change."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; `start` has been called with the same arguments."""

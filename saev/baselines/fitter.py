"""The interface of fitting: a baseline is learned in passes over the stream, from additive statistics."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from saev.baselines.baseline import Baseline
from saev.nn.normalise import Normaliser


class Resumable:
    """Its state are the attributes named by `state`: tensors, plain values, and other Resumables."""

    state: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain values."""
        values = {name: getattr(self, name) for name in self.state}
        return {name: v.state_dict() if isinstance(v, Resumable) else v for name, v in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict` of an object made with the same arguments; tensors keep their dtype and device."""
        for name in self.state:
            value = getattr(self, name)
            if isinstance(value, Resumable):
                value.load_state_dict(state[name])
            else:
                setattr(self, name, state[name].to(value, copy=True) if isinstance(value, Tensor) else state[name])


class Fitter(Resumable, ABC):
    """Fits one baseline. Several fitters see the same batches:

        start ──▶ n_passes x ( update for every batch of an epoch ; finish_pass ) ──▶ dictionaries

    Results do not depend on how tokens are split into batches (integers exactly, sums in float64), and `merge` adds the
    statistics of two halves of a pass to those of the whole: so several processes can divide a pass.
    `state` names all that `update` and `finish_pass` change, so that an interrupted fit resumes at the next batch.
    """

    n_passes: int = 1
    sample_tokens: int = 0  # normalised tokens in the sample that `start` needs

    @abstractmethod
    def start(self, normaliser: Normaliser, sample: Float[Tensor, "n d_model"], n_tokens: int) -> None:
        """Before the first pass: the normaliser, a shuffled sample of normalised activations, and the tokens per epoch.

        ValueError names the setting that needs more tokens.
        """

    @abstractmethod
    def update(self, z: Float[Tensor, "batch d_model"], token: Int64[Tensor, " batch"]) -> None:
        """Add a batch of normalised activations to the current pass; `token` is the index of each token in the dataset."""

    @abstractmethod
    def finish_pass(self) -> Mapping[str, float]:
        """End the pass and begin the next; returns the numbers of the pass for the log (inertia, ...)."""

    @abstractmethod
    def merge(self, other: "Fitter") -> None:
        """Add the statistics that `other`, started from the same state, has collected in the current pass."""

    @abstractmethod
    def dictionaries(self) -> Mapping[str, Baseline]:
        """After the last pass: the fitted baselines by the setting that differs ("" for a single one)."""

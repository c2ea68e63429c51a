"""The interface of dictionaries that encoding, evaluation and probing rely on."""

import dataclasses
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Dictionary(Protocol):
    """Atoms, and codes of raw activations over them (an SAE, k-means, PCA, random vectors)."""

    @property
    def d_model(self) -> int:
        """The width of activations."""
        ...

    @property
    def n_latents(self) -> int:
        """The number of atoms."""
        ...

    @property
    def atoms(self) -> Float[Tensor, "n_latents d_model"]:
        """The directions, in the dictionary's normalised space."""
        ...

    def encode(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Codes of raw activations."""
        ...

    def decode(self, codes: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations from codes."""
        ...


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A dictionary as a scorer for trait evaluation: a score per token and prototype; the prototypes are the latents.

    Scores are the dictionary's codes: k-means with `code: onehot` scores by membership, with `code: inverse` by distance.
    """

    dictionary: Dictionary

    @property
    def n_prototypes(self) -> int:
        """The number of scores per token."""
        return self.dictionary.n_latents

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        """Scores of raw activations; larger means more like the prototype."""
        return self.dictionary.encode(acts)

"""What everything to the right of training sees: a dictionary, whoever made it."""

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
        """Raw activations that the codes stand for."""
        ...


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Any dictionary as what trait evaluation asks for: a score of each token for each of its prototypes, the latents.

    Scores are the dictionary's codes, so they rank tokens as it does itself: a k-means of `code: onehot` by membership, one
    of `code: inverse` by distance.
    """

    dictionary: Dictionary

    @property
    def n_prototypes(self) -> int:
        """How many scores a token gets."""
        return self.dictionary.n_latents

    def __call__(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_prototypes"]:
        """Scores of raw activations; larger means more like the prototype."""
        return self.dictionary.encode(acts)

"""What everything to the right of training sees: a dictionary, whoever made it."""

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

"""The base class of baselines: dictionaries on raw activations, saved as settings and tensors."""

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.normalise import Normaliser


class Baseline(nn.Module, ABC):
    """A `Dictionary` (saev/dictionary.py) of `n_latents` atoms, rows in normalised space z = (x - mean)/scale.

    A subclass takes `(normaliser, atoms, **settings)`; settings are JSON-able keyword arguments kept as attributes of the
    same names, tensors beside the atoms are buffers, created with their final shapes in `__init__`. So a saved baseline is
    restored by `cls(normaliser, zeros, **settings)` and `load_state_dict`.
    """

    kind: ClassVar[str]  # in config.json
    atoms_: Float[Tensor, "n_latents d_model"]

    def __init__(self, normaliser: Normaliser, atoms: Float[Tensor, "n_latents d_model"]):
        super().__init__()
        self.normaliser = normaliser
        self.register_buffer("atoms_", atoms.detach().clone().float())

    @property
    def atoms(self) -> Float[Tensor, "n_latents d_model"]:
        """The directions, in normalised space."""
        return self.atoms_

    @property
    def n_latents(self) -> int:
        """The number of atoms."""
        return self.atoms_.shape[0]

    @property
    def d_model(self) -> int:
        """The width of activations."""
        return self.atoms_.shape[1]

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of `__init__`."""
        names = [*inspect.signature(type(self)).parameters][2:]
        return {name: getattr(self, name) for name in names}

    def encode(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Codes of raw activations; ValueError for another width than the dictionary's."""
        if acts.shape[-1] != self.d_model:
            raise ValueError(
                f"activations have d_model={acts.shape[-1]}, this dictionary was fitted on d_model={self.d_model}: "
                "encode activations of the same backbone."
            )
        return self.codes(self.normaliser(acts))

    def decode(self, codes: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations from codes."""
        return self.normaliser.inverse(codes.float() @ self.atoms_)

    def forward(self, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
        """The reconstruction of raw activations."""
        return self.decode(self.encode(acts))

    @abstractmethod
    def codes(self, z: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Codes of normalised activations."""


def as_unit_rows(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Rows divided by their norms; rows of zeros stay zero."""
    return torch.nn.functional.normalize(vectors, dim=1)

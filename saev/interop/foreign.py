"""What a reader makes of another library's files: their own equations, and the same function as one of ours."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saev.interop.rebuilding import Rebuilt
from saev.nn.autoencoder import SparseAutoencoder

# Raw activations [batch, d_model] -> (codes [batch, d_sae], reconstruction [batch, d_model]), all float64.
Equations = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What some files leave open and the user has to say."""

    centred: bool | None = None
    """Whether the encoder subtracts b_dec: saev's files of schema 1 do not say."""
    mean: Path | None = None
    """The mean that a saev run subtracted from activations (.npy, or a tensor saved by torch)."""
    scale: str | None = None
    """What activations were divided by (saev) or multiplied by (SAELens): a number, or a file like `mean`."""
    ignore_unknown: bool = False
    """Go on where the configuration has keys that this version does not know."""


@dataclasses.dataclass(frozen=True)
class ForeignSAE:
    """An SAE of another library.

    `evaluate` follows the library's equations on the weights as they are in the file, without our classes. `rebuilt`
    is the same function in our form; its codes are `code_scale` times the library's.
    """

    library: str
    architecture: str
    evaluate: Equations
    rebuilt: Rebuilt
    config: Mapping[str, Any]
    files: Mapping[str, str]  # name -> sha256
    notes: tuple[str, ...] = ()

    @property
    def sae(self) -> SparseAutoencoder:
        """The same function as one of our autoencoders."""
        return self.rebuilt.sae

    @property
    def code_scale(self) -> Float[Tensor, " d_sae"]:
        """Our codes over the library's, per latent."""
        return self.rebuilt.code_scale

    def provenance(self) -> dict[str, Any]:
        """For config.json: where the dictionary comes from, and what was done to its weights."""
        return {
            "library": self.library,
            "architecture": self.architecture,
            "files": dict(self.files),
            "notes": list(self.notes + self.rebuilt.notes),
            "config": dict(self.config),
        }

"""The options of a conversion, and what a reader returns: the library's equations, and the same function as one of ours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saev.nn.autoencoder import SparseAutoencoder
from saev.settings import bounded, check

# Raw activations [batch, d_model] -> (codes [batch, d_sae], reconstruction [batch, d_model]), all float64.
Equations = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of `saev.convert`: facts that the files do not record, how to compare, how to store. None: not given.

    Args:
        centred: whether the encoder subtracts b_dec, which saev's files of schema 1 do not say.
        mean: the mean that a saev run subtracted from activations (.npy, or a tensor saved by torch).
        scale: what activations were divided by (saev) or multiplied by (SAELens): a number, or a file like `mean`.
        ignore_unknown: accept keys of a configuration that this version does not know.
        layer, tokens, n_tokens: of the recording to compare on: patches and 20000 where they are not given.
        dtype, depth, grid: of activation shards: how values are stored (float32); the backbone's number of blocks, where
            layers are counted from its end; rows and columns of patches, which the files do not say.
    """

    centred: bool | None = None
    mean: Path | None = None
    scale: str | None = None
    ignore_unknown: bool = False
    layer: int | None = None
    tokens: str | None = None
    n_tokens: int | None = bounded(None, at_least=1)
    dtype: str | None = None
    depth: int | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self):
        check(self)

    def refuse(self, names: Sequence[str], why: str) -> None:
        """ValueError where one of these options is given."""
        given = [option(name) for name in names if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: {why}; leave it out.")


def option(name: str) -> str:
    """A field of Options as it is written on the command line."""
    return "--centred-encoder" if name == "centred" else f"--{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True)
class ForeignSAE:
    """An SAE of another library, and the same function as one of our autoencoders.

    `evaluate` follows the library's equations on the weights as they are in the file, without our classes. The codes of `sae`
    are `code_scale` times the library's.
    """

    library: str
    architecture: str
    evaluate: Equations
    sae: SparseAutoencoder
    code_scale: Float[Tensor, " d_sae"]
    config: Mapping[str, Any]
    files: Mapping[str, str]  # name -> sha256
    notes: tuple[str, ...] = ()  # what was done to the weights, left out or assumed

    def provenance(self) -> dict[str, Any]:
        """For config.json: where the dictionary comes from, and what was done to its weights."""
        fields = ("library", "architecture", "files", "notes", "config")
        return {name: getattr(self, name) for name in fields} | {"notes": list(self.notes)}

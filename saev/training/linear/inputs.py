"""Inputs of linear probes: normalised activations or a dictionary's codes, computed once per batch for all probes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saev.codes.pairs import sparse_codes
from saev.dictionary import Dictionary
from saev.nn.normalise import Normaliser
from saev.ops.sparse import SparseCodes

RAW, ALL = "raw", "all"
Features = Float[Tensor, "batch width"] | SparseCodes


@runtime_checkable
class Input(Protocol):
    """Features of raw activations. Inputs are neither trained nor saved in checkpoints."""

    @property
    def width(self) -> int:
        """Number of features of a token."""
        ...

    def features(self, acts: Float[Tensor, "batch d_model"]) -> Features:
        """Features of a batch, on its device."""
        ...


class RawInput:
    """Normalised activations."""

    def __init__(self, normaliser: Normaliser):
        self.normaliser = normaliser

    @property
    def width(self) -> int:
        return len(self.normaliser.mean)

    def features(self, acts: Float[Tensor, "batch d_model"]) -> Features:
        return self.normaliser.to(acts.device)(acts)


class CodesInput:
    """The codes of a dictionary in evaluation mode: sparse pairs where products with these are faster, else dense."""

    def __init__(self, dictionary: Dictionary):
        self.dictionary = dictionary

    @property
    def width(self) -> int:
        return self.dictionary.n_latents

    def features(self, acts: Float[Tensor, "batch d_model"]) -> Features:
        if isinstance(self.dictionary, torch.nn.Module):
            self.dictionary.eval().to(acts.device)
        codes = sparse_codes(self.dictionary, acts.float())
        return codes if codes.prefer_sparse(self.width) else codes.dense(self.width)


def inputs_of(requested: Sequence[str], normaliser: Normaliser, members: Mapping[str, Dictionary]) -> dict[str, Input]:
    """The inputs of `names_of` by name."""
    return {
        name: RawInput(normaliser) if name == RAW else CodesInput(members[name])
        for name in names_of(requested, members)
    }


def names_of(requested: Sequence[str], members: Iterable[str]) -> list[str]:
    """The requested inputs, each once: `raw`, a dictionary's name, or `all` for raw and every dictionary. ValueError for others.

    >>> names_of(["all", "raw"], ["k=8"])
    ['raw', 'k=8']
    """
    known = [RAW, *members]
    names = list(dict.fromkeys(name for entry in requested for name in (known if entry == ALL else [entry])))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        problem = f"there is no {unknown[0]}" if unknown else "it is empty"
        raise ValueError(f"linear_probe.inputs={list(requested)}: {problem}: choose of {[RAW, ALL, *known[1:]]}.")
    return names

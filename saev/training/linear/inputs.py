"""What linear probes look at: normalised activations, or a dictionary's codes; made once per batch for all of them."""

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
    """Features of raw activations. Nothing about it is trained, nor kept in a checkpoint."""

    @property
    def width(self) -> int:
        """Features of a token."""
        ...

    def features(self, acts: Float[Tensor, "batch d_model"]) -> Features:
        """Those of a batch, on its device."""
        ...


class RawInput:
    """Activations as the normaliser leaves them."""

    def __init__(self, normaliser: Normaliser):
        self.normaliser = normaliser

    @property
    def width(self) -> int:
        return len(self.normaliser.mean)

    def features(self, acts: Float[Tensor, "batch d_model"]) -> Features:
        return self.normaliser.to(acts.device)(acts)


class CodesInput:
    """The codes of a dictionary in evaluation mode: as pairs where products with those are the faster ones."""

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


def inputs_of(wanted: Sequence[str], normaliser: Normaliser, members: Mapping[str, Dictionary]) -> dict[str, Input]:
    """The inputs by name: those of `names_of`."""
    return {
        name: RawInput(normaliser) if name == RAW else CodesInput(members[name]) for name in names_of(wanted, members)
    }


def names_of(wanted: Sequence[str], members: Iterable[str]) -> list[str]:
    """`raw`, a dictionary's name, or `all` for raw and every dictionary, each once; ValueError for another.

    >>> names_of(["all", "raw"], ["k=8"])
    ['raw', 'k=8']
    """
    there = [RAW, *members]
    found = list(dict.fromkeys(each for want in wanted for each in (there if want == ALL else [want])))
    absent = [name for name in found if name not in there]
    if absent or not found:
        why = f"there is no {absent[0]}" if absent else "there is nothing to learn from"
        raise ValueError(f"linear_probe.inputs={list(wanted)}: {why}: choose of {[RAW, ALL, *there[1:]]}.")
    return found

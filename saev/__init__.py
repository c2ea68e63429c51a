"""Sparse autoencoders on vision-transformer activations: train, compare, read.

>>> import saev
>>> dictionary = saev.load("outputs/train/.../saes/k=32")  # doctest: +SKIP
>>> codes = dictionary.encode(activations)  # raw activations [batch, d_model]  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saev.checkpoint import load, read_config, save_dictionary
    from saev.codes.store import CodeStore
    from saev.dictionary import Dictionary, Scorer
    from saev.nn import BatchTopK, Matryoshka, Member, Plain, ReLU, SAEBank, SparseAutoencoder, TopK
    from saev.shards import ActivationStore, TokenStream, store_activations
    from saev.vits import record

# Each name is imported when it is first used: the command line starts without torch.
_HOME = {
    "saev.codes": ("CodeStore",),
    "saev.checkpoint": ("load", "read_config", "save_dictionary"),
    "saev.dictionary": ("Dictionary", "Scorer"),
    "saev.nn": ("BatchTopK", "Matryoshka", "Member", "Plain", "ReLU", "SAEBank", "SparseAutoencoder", "TopK"),
    "saev.shards": ("ActivationStore", "TokenStream", "store_activations"),
    "saev.vits": ("record",),
}

__all__ = [
    "ActivationStore",
    "BatchTopK",
    "CodeStore",
    "Dictionary",
    "Matryoshka",
    "Member",
    "Plain",
    "ReLU",
    "SAEBank",
    "Scorer",
    "SparseAutoencoder",
    "TokenStream",
    "TopK",
    "load",
    "read_config",
    "record",
    "save_dictionary",
    "store_activations",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'saev' has no attribute {name!r}")

"""Sparse autoencoders on vision-transformer activations: train, compare, read.

>>> import saev
>>> dictionary = saev.load("outputs/train/.../saes/k=32")  # doctest: +SKIP
>>> codes = dictionary.encode(activations)                 # raw activations [batch, d_model]  # doctest: +SKIP
"""

from saev.checkpoint import load, read_config, save_dictionary
from saev.dictionary import Dictionary
from saev.nn import BatchTopK, Matryoshka, MemberSpec, Plain, ReLU, SAEBank, SparseAutoencoder, TopK
from saev.shards import ActivationStore, TokenStream

__all__ = [
    "ActivationStore",
    "BatchTopK",
    "Dictionary",
    "Matryoshka",
    "MemberSpec",
    "Plain",
    "ReLU",
    "SAEBank",
    "SparseAutoencoder",
    "TokenStream",
    "TopK",
    "load",
    "read_config",
    "save_dictionary",
]

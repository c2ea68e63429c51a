"""Sparse autoencoders: activations, objectives, initialisation, schedules, and the bank that trains many at once."""

from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.auxk import AuxK
from saev.nn.bank import Member, MemberSpec, SAEBank
from saev.nn.gated import Gated
from saev.nn.jumprelu import JumpReLU
from saev.nn.normalise import Normaliser
from saev.nn.objectives import Matryoshka, Objective, Plain, RandomMatryoshka
from saev.nn.penalised import ReLU
from saev.nn.sparsifiers import BatchTopK, Sparsifier, TopK

__all__ = [
    "AuxK",
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "Member",
    "MemberSpec",
    "Normaliser",
    "Objective",
    "Plain",
    "RandomMatryoshka",
    "ReLU",
    "SAEBank",
    "SparseAutoencoder",
    "Sparsifier",
    "TopK",
]

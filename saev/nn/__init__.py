"""Sparse autoencoders: activations, objectives, initialisation, schedules, and the bank that trains many at once."""

from saev.nn.activations import Activation, BatchTopK, ReLU, TopK
from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.bank import Member, MemberSpec, SAEBank
from saev.nn.normalise import Normaliser
from saev.nn.objectives import AuxK, Matryoshka, Objective, Plain

__all__ = [
    "Activation",
    "AuxK",
    "BatchTopK",
    "Matryoshka",
    "Member",
    "MemberSpec",
    "Normaliser",
    "Objective",
    "Plain",
    "ReLU",
    "SAEBank",
    "SparseAutoencoder",
    "TopK",
]

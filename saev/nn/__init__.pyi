from .autoencoder import SparseAutoencoder
from .bank import SAEBank, TrainingMember
from .normalise import Normaliser
from .objectives import Matryoshka, Objective, Plain, RandomMatryoshka
from .settings import Archetypal, AuxK, Free, Member
from .sparsifiers import SPARSIFIERS, BatchTopK, Gated, JumpReLU, ReLU, SparsifierSettings, TopK

__all__ = [
    "SPARSIFIERS",
    "Archetypal",
    "AuxK",
    "BatchTopK",
    "Free",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "Member",
    "Normaliser",
    "Objective",
    "Plain",
    "RandomMatryoshka",
    "ReLU",
    "SAEBank",
    "SparseAutoencoder",
    "SparsifierSettings",
    "TopK",
    "TrainingMember",
]

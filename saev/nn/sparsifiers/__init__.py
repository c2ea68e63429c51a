"""How pre-activations become codes: settings here, without torch; the module of each kind in the file of its name."""

from saev.nn.sparsifiers.settings import (
    SPARSIFIERS,
    BatchTopK,
    Gated,
    JumpReLU,
    ReLU,
    SparsifierSettings,
    TopK,
)  # fmt: skip

__all__ = ["SPARSIFIERS", "BatchTopK", "Gated", "JumpReLU", "ReLU", "SparsifierSettings", "TopK"]

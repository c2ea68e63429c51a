"""ReLU with an L1 penalty."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from saev.nn.decoding import per_token
from saev.nn.sparsifiers.base import Codes, firing_threshold
from saev.nn.sparsifiers.penalised import Penalised
from saev.nn.sparsifiers.settings import ReLU
from saev.ops.sparse import SparseCodes, select_beyond


class ReLUSparsifier(Penalised[ReLU]):
    """See `ReLU`."""

    @property
    def free_atoms(self) -> bool:
        return self.settings.atom_norm

    def initialise_threshold(self, h: Float[Tensor, "n d_sae"]) -> Float[Tensor, " d_sae"]:
        return -firing_threshold(h, self.settings.l0_target)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return h.relu()

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        return select_beyond(h)

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        if not self.settings.atom_norm:
            return self.coefficient * per_token(f)
        if isinstance(f, SparseCodes):
            summed = f.values.new_zeros(len(w_dec)).index_add(0, f.latents, f.values)
            return self.coefficient * (summed * w_dec.norm(dim=1)).sum() / f.n_rows
        return self.coefficient * (f @ w_dec.norm(dim=1).to(f.dtype)).mean()

    def finalise(self) -> None:
        """The autoencoder moves atom norms into the encoder: saved atoms have unit norm."""
        self.settings = dataclasses.replace(self.settings, atom_norm=False)

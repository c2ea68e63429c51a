"""Gated autoencoders: a gate decides whether a latent fires, a magnitude how strongly."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.decoding import decode, per_token
from saev.nn.sparsifiers.base import Codes, firing_threshold
from saev.nn.sparsifiers.penalised import Penalised
from saev.nn.sparsifiers.settings import Gated
from saev.ops.sparse import SparseCodes, select_beyond


class GatedSparsifier(Penalised[Gated]):
    """See `Gated`."""

    selects_codes = False

    def __init__(self, settings: Gated, d_sae: int):
        super().__init__(settings, d_sae)
        self.r, self.b_gate, self.b_mag = (nn.Parameter(torch.zeros(d_sae)) for _ in range(3))

    @property
    def gate_bias(self) -> nn.Parameter:
        return self.b_gate

    @torch.no_grad()
    def initialise_threshold(self, h: Float[Tensor, "n d_sae"]) -> None:
        self.r.zero_()
        self.b_gate.copy_(-firing_threshold(h, self.settings.l0_target))
        self.b_mag.copy_(self.b_gate)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h + self.b_gate > 0, torch.addcmul(self.b_mag, self.r.exp(), h).relu(), 0.0)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        return select_beyond(h, -self.b_gate)

    def codes_of(self, pairs: SparseCodes) -> SparseCodes:
        r, b_mag = (x.index_select(0, pairs.latents) for x in (self.r.exp(), self.b_mag))
        return pairs._replace(values=torch.addcmul(b_mag, r, pairs.values).relu())

    def gates(self, at: Codes) -> Codes:
        """relu(pi): a matrix, or the pairs where it is not 0."""
        if isinstance(at, SparseCodes):
            return at._replace(values=(at.values + self.b_gate.index_select(0, at.latents)).relu())
        return (at + self.b_gate).relu()

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        return self.coefficient * per_token(self.gates(at))

    def auxiliary_loss(
        self,
        z: Float[Tensor, "batch d_model"],
        at: Codes,
        w_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
    ) -> Float[Tensor, ""]:
        return (z - decode(self.gates(at), w_dec.detach()) - b_dec.detach()).square().mean()

"""Gated autoencoders: whether a latent fires, and how strongly, are decided apart (Rajamanoharan et al. 2024a)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.decoding import decode, per_token
from saev.nn.penalised import Penalised
from saev.nn.sparsifiers import Codes, firing_threshold
from saev.ops.sparse import SparseCodes, select_beyond


class Gated(Penalised):
    """f = [pi > 0] relu(exp(r) h + b_mag) with pi = h + b_gate, where h = (z - b_dec) @ w_enc has no bias of its own.

    The gate learns from the penalty, sparsity * mean over the batch of sum_j relu(pi_j), and from an auxiliary
    reconstruction by relu(pi) through a decoder that takes no gradient from it (section 3.2 of the paper).
    """

    owns_bias = True
    selects_codes = False
    copies = 8
    r: nn.Parameter
    b_gate: nn.Parameter
    b_mag: nn.Parameter

    def prepare(self, d_sae: int) -> None:
        self.r, self.b_gate, self.b_mag = (nn.Parameter(torch.zeros(d_sae)) for _ in range(3))

    @torch.no_grad()
    def start(self, h: Float[Tensor, "n d_sae"]) -> None:
        self.r.zero_()
        self.b_gate.copy_(-firing_threshold(h, self.l0_target))
        self.b_mag.copy_(self.b_gate)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return torch.where(h + self.b_gate > 0, torch.addcmul(self.b_mag, self.r.exp(), h).relu(), 0.0)

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        return select_beyond(h, -self.b_gate)

    def of_pairs(self, at: SparseCodes) -> SparseCodes:
        r, b_mag = (x.index_select(0, at.latents) for x in (self.r.exp(), self.b_mag))
        return at._replace(values=torch.addcmul(b_mag, r, at.values).relu())

    def gates(self, at: Codes) -> Codes:
        """relu(pi), as a matrix or of the pairs where it is not 0."""
        if isinstance(at, SparseCodes):
            return at._replace(values=(at.values + self.b_gate.index_select(0, at.latents)).relu())
        return (at + self.b_gate).relu()

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        return self.coefficient * per_token(self.gates(at))

    def auxiliary(
        self,
        z: Float[Tensor, "batch d_model"],
        at: Codes,
        w_dec: Float[Tensor, "d_sae d_model"],
        b_dec: Float[Tensor, " d_model"],
    ) -> Float[Tensor, ""]:
        return (z - decode(self.gates(at), w_dec.detach()) - b_dec.detach()).square().mean()

    def gate_bias(self, b_enc: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
        return self.b_gate

"""Activations that a penalty makes sparse, and the controller that finds the penalty's coefficient for a wanted L0."""

import torch
from jaxtyping import Float
from torch import Tensor

from saev.nn.decoding import per_token
from saev.nn.sparsifiers import Codes, Sparsifier, firing_threshold
from saev.ops.sparse import SparseCodes, select_beyond

RATE = 0.03  # of the controller: at twice the wanted L0 the coefficient grows by a factor of e in 33 steps


class Penalised(Sparsifier):
    """A sparsifier with a sparsity coefficient: fixed, or steered so that L0 becomes `l0_target`.

    The controller is multiplicative and slow: log coefficient += RATE * (L0/l0_target - 1), the last factor within
    [-1, 1]. The coefficient is a float32 buffer and part of the checkpoint; `sparsity` is where it starts.
    """

    coefficient: Float[Tensor, ""]

    def __init__(self, sparsity: float, l0_target: float | None = None):
        super().__init__()
        if sparsity is None or not sparsity >= 0:
            raise ValueError(f"sparsity={sparsity}: the coefficient is 0 or more, e.g. sparsity=1e-3.")
        check_target(l0_target)
        if l0_target is not None and sparsity == 0:
            raise ValueError(
                f"sparsity=0 with l0_target={l0_target}: the controller needs a start, e.g. sparsity=1e-3."
            )
        self.sparsity, self.l0_target = float(sparsity), l0_target
        self.register_buffer("coefficient", torch.tensor(self.sparsity, dtype=torch.float32))

    @torch.no_grad()
    def follow(self, l0: Float[Tensor, ""]) -> None:
        if self.l0_target is not None:
            error = (l0 / self.l0_target - 1).clamp(-1, 1)
            self.coefficient.mul_((RATE * error).exp().to(self.coefficient))


class ReLU(Penalised):
    """f = max(h, 0), made sparse by an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023).

    The penalty is sparsity * mean over the batch of sum_j f_j, atoms having unit norm. With `atom_norm` atoms are free and
    it is sparsity * mean over the batch of sum_j f_j ||w_j|| (Conerly et al. 2024): the same function of f ||w||, which is
    what such an autoencoder's codes are everywhere else.
    """

    def __init__(self, sparsity: float, l0_target: float | None = None, atom_norm: bool = False):
        super().__init__(sparsity, l0_target)
        self.atom_norm = self.free_atoms = bool(atom_norm)

    def start(self, h: Float[Tensor, "n d_sae"]) -> Float[Tensor, " d_sae"]:
        return -firing_threshold(h, self.l0_target)

    def forward(self, h: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        return h.relu()

    def select(self, h: Float[Tensor, "batch d_sae"]) -> SparseCodes | None:
        return select_beyond(h)

    def penalty(self, at: Codes, f: Codes, w_dec: Float[Tensor, "d_sae d_model"]) -> Float[Tensor, ""]:
        if not self.atom_norm:
            return self.coefficient * per_token(f)
        if isinstance(f, SparseCodes):
            summed = f.values.new_zeros(len(w_dec)).index_add(0, f.latents, f.values)
            return self.coefficient * (summed * w_dec.norm(dim=1)).sum() / f.n_rows
        return self.coefficient * (f @ w_dec.norm(dim=1).to(f.dtype)).mean()


def check_target(l0_target: float | None) -> None:
    """ValueError where a wanted L0 is not positive."""
    if l0_target is not None and not l0_target > 0:
        raise ValueError(f"l0_target={l0_target}: the wanted number of active latents per token is above 0, e.g. 32.")

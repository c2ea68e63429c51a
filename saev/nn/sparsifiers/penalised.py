"""The controller that adapts a penalty's coefficient until L0 reaches its target; for ReLU and Gated."""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from saev.nn.sparsifiers.base import Sparsifier
from saev.nn.sparsifiers.settings import Gated, ReLU

RATE = 0.03  # at twice the target L0 the coefficient grows by a factor of e in 33 steps
Settings = TypeVar("Settings", ReLU, Gated)


class Penalised(Sparsifier[Settings]):
    """A sparsifier with a sparsity coefficient: fixed, or controlled so that L0 becomes `l0_target`.

    The controller is multiplicative and slow: log coefficient += RATE * (L0/l0_target - 1), the last factor within
    [-1, 1]. The coefficient is a float32 buffer and part of the checkpoint; it starts at `sparsity`.
    """

    coefficient: Float[Tensor, ""]

    def __init__(self, settings: Settings, d_sae: int):
        super().__init__(settings, d_sae)
        self.register_buffer("coefficient", torch.tensor(settings.sparsity, dtype=torch.float32))

    @torch.no_grad()
    def update_controller(self, l0: Float[Tensor, ""]) -> None:
        if self.settings.l0_target is not None:
            error = (l0 / self.settings.l0_target - 1).clamp(-1, 1)
            self.coefficient.mul_((RATE * error).exp().to(self.coefficient))

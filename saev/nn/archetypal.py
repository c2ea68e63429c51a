"""Archetypal decoders: atoms that stay near convex combinations of real activations (Fel et al. 2025, "Archetypal SAE").

    mixing [d_sae, points] on the simplex, residual [d_sae, d_model] in a ball
    ──atoms──▶ w_dec, the unit rows of mixing @ points + residual ──training step──▶ w_dec.grad ──pull_back──▶ both gradients

w_dec remains the parameter that decodes: it is recomputed after each step, and its gradient is passed on to mixing and
residual. So codes, objectives and AuxK need no special case, and a saved dictionary is an ordinary one.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

TINY = 1e-12
NEWTON_STEPS = 20  # of the simplex projection; 3 to 6 are usual


class Archetypes(nn.Module):
    """The parameters of an archetypal decoder's atoms."""

    points: Float[Tensor, "points d_model"]
    lengths: Float[Tensor, " d_sae"]

    def __init__(
        self,
        points: Float[Tensor, "points d_model"],
        mixing: Float[Tensor, "d_sae points"],
        residual: Float[Tensor, "d_sae d_model"],
        delta: float,
    ):
        super().__init__()
        self.delta = float(delta)
        self.register_buffer("points", points)
        self.register_buffer("lengths", torch.ones_like(mixing[:, 0]))  # norms of the rows before normalisation
        self.mixing, self.residual = nn.Parameter(mixing), nn.Parameter(residual)
        for parameter in (self.mixing, self.residual):  # bounded row by row: nothing for Muon to orthogonalise
            parameter.per_entry = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def atoms(self) -> Float[Tensor, "d_sae d_model"]:
        """Project mixing and residual onto their constraints and return the atoms."""
        self.mixing.copy_(project_to_simplex(self.mixing))
        self.residual.mul_((self.delta / self.residual.norm(dim=1, keepdim=True).clamp_min(TINY)).clamp_max(1))
        with torch.autocast(self.mixing.device.type, enabled=False):
            rows = torch.addmm(self.residual, self.mixing, self.points)
        self.lengths.copy_(rows.norm(dim=1).clamp_min(TINY))
        return rows / self.lengths[:, None]

    @torch.no_grad()
    def pull_back(self, w_dec: nn.Parameter) -> None:
        """Move the gradient of the atoms to mixing and residual.

        Through w = a/||a|| it loses its component along the atom and is divided by ||a||; a = mixing @ points + residual.
        """
        if w_dec.grad is None:
            return
        along = (w_dec.grad * w_dec).sum(1, keepdim=True)
        by_row = w_dec.grad.addcmul(along, w_dec, value=-1) / self.lengths[:, None]
        with torch.autocast(by_row.device.type, enabled=False):
            self.mixing.grad = by_row @ self.points.T
        self.residual.grad = by_row
        w_dec.grad = None


def project_to_simplex(w: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """The nearest point to each row among those with entries >= 0 that add up to 1.

    max(w - tau, 0) with the tau at which it sums to 1, by Newton's method from below (Michelot 1986: finitely many steps, as the
    sum is piecewise linear in tau): about half the time of sorting the rows.

    >>> project_to_simplex(torch.tensor([[0.5, 1.5, -1.0], [1.0, 1.0, 1.0]]))
    tensor([[0.0000, 1.0000, 0.0000],
            [0.3333, 0.3333, 0.3333]])
    """
    tau = torch.maximum((w.sum(1, keepdim=True) - 1) / w.shape[1], w.amax(1, keepdim=True) - 1)
    for _ in range(NEWTON_STEPS):
        over = (w - tau).relu_()
        step = (over.sum(1, keepdim=True) - 1) / over.count_nonzero(1).clamp_min(1)[:, None]
        tau = tau + step
        if not w.is_cuda and step.abs().max() < 1e-7:  # on a GPU this test would synchronise
            break
    over = (w - tau).relu_()
    return over.div_(over.sum(1, keepdim=True))

"""Mutual coherence of a dictionary without its n x n Gram matrix: blocks of the upper triangle, a running maximum."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Coherence(NamedTuple):
    """Largest |cos| of two different atoms, mean over atoms of their largest |cos| with another, and the pair of the largest."""

    max: Float[Tensor, ""]
    mean_max: Float[Tensor, ""]
    pair: Int[Tensor, "2"]


def coherence(atoms: Float[Tensor, "n d_model"], block: int = 1024) -> Coherence:
    """Max over pairs of different atoms of |cos|, mean over atoms of their max, and the indices of the largest pair.

    Needs `block^2` numbers of memory beside the atoms; each pair is multiplied once. The cosine of a zero atom is 0, and so is the
    coherence of a single atom (whose pair is (0, 0)).

    >>> max, mean_max, pair = coherence(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0]]))
    >>> round(float(max), 4), round(float(mean_max), 4), pair.tolist()
    (0.7071, 0.7071, [0, 2])
    """
    unit = _unit_rows(atoms)
    n = len(unit)
    best = unit.new_zeros(n)
    for i in range(0, n, block):
        for j in range(i, n, block):
            cos = (unit[i : i + block] @ unit[j : j + block].T).abs_()
            if i == j:
                cos.fill_diagonal_(0)
                best[i : i + block] = torch.maximum(best[i : i + block], cos.amax(1))
            else:  # the Gram matrix is symmetric
                best[i : i + block] = torch.maximum(best[i : i + block], cos.amax(1))
                best[j : j + block] = torch.maximum(best[j : j + block], cos.amax(0))
    # max with argmax is much slower than amax, so only the best row is multiplied again to find the index: in float64, so
    # that the reported maximum has no rounding of float32 or TF32 products.
    first = best.argmax().view(1)
    row = (unit.index_select(0, first).double() @ unit.double().T).abs_()[0].index_fill_(0, first, -1.0)
    second = row.argmax().view(1) if n > 1 else first
    pair = torch.cat([first, second]).sort().values
    return Coherence(row.index_select(0, second)[0].clamp(0, 1), best.double().mean().clamp(max=1), pair)


def _unit_rows(atoms: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    rows = atoms.detach()
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    if len(rows) == 0:
        raise ValueError("coherence of a dictionary with 0 atoms is not defined: it must have at least one atom.")
    return torch.nn.functional.normalize(rows, dim=1)

"""Similarity of two dictionaries, atom by atom: two seeds of the same settings should learn the same directions."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

SAME = 0.7  # the cosine from which two atoms count as the same latent (Paulo and Belrose 2025, section 3)
MOST = 4096  # atoms that are matched one to one: the assignment's time is cubic in their number


class Stability(NamedTuple):
    """Cosines between the atoms of two dictionaries, a and b."""

    mean_max_a: Float[Tensor, ""]  # mean over the atoms of a of the largest cosine with any atom of b
    mean_max_b: Float[Tensor, ""]  # the same of b with a
    matched: Float[Tensor, ""]  # mean cosine under the best one-to-one assignment
    shared: Float[Tensor, ""]  # fraction of the assigned pairs with a cosine of SAME or more


class Matches(NamedTuple):
    """For each row of a the row of b with the largest cosine, and for each of b the row of a; of equal ones the lower number."""

    cosine_a: Float[Tensor, " n"]
    partner_a: Int64[Tensor, " n"]  # rows of b
    cosine_b: Float[Tensor, " m"]
    partner_b: Int64[Tensor, " m"]  # rows of a


def best_matches(a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"], block: int = 2048) -> Matches:
    """The best partners in both directions by signed cosine, computed in blocks of block x block; a zero row has cosine 0.

    >>> [x.tolist() for x in best_matches(torch.eye(2), torch.tensor([[0.0, 3.0]]))]
    [[0.0, 1.0], [0, 0], [1.0], [1]]
    """
    a, b = normalize(a.detach().float(), dim=1), normalize(b.detach().float(), dim=1)
    best_a, best_b = a.new_full((len(a),), -2.0), b.new_full((len(b),), -2.0)
    of_a, of_b = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for x in (a, b))
    for i in range(0, len(a), block):
        for j in range(0, len(b), block):
            cos = a[i : i + block] @ b[j : j + block].T
            for best, of, start, other, dim in ((best_a, of_a, i, j, 1), (best_b, of_b, j, i, 0)):
                value, number = cos.max(dim)
                rows = slice(start, start + len(value))
                better = value > best[rows]
                best[rows] = torch.where(better, value, best[rows])
                of[rows] = torch.where(better, number + other, of[rows])
    return Matches(best_a, of_a, best_b, of_b)


def mean_max_cosine(
    a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"], block: int = 2048
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over the atoms of a of the largest cosine with an atom of b, and the same of b with a; signed, float64 means.

    >>> [round(float(x), 4) for x in mean_max_cosine(torch.eye(2), torch.tensor([[1.0, 1.0]]))]
    [0.7071, 0.7071]
    """
    matches = best_matches(a, b, block)
    return matches.cosine_a.double().mean(), matches.cosine_b.double().mean()


def matched_cosines(
    a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_model"], most: int = MOST
) -> Float[Tensor, " pairs"]:
    """Cosine of each pair of the one-to-one assignment with the largest sum of cosines (Hungarian method), float64.

    The atoms of the smaller dictionary are each given an atom of the larger. Above `most` a seeded sample of the smaller
    one is matched with all atoms of the larger: fewer competitors, so slightly higher cosines.
    """
    from scipy.optimize import linear_sum_assignment

    if len(a) > len(b):
        a, b = b, a
    if len(a) > most:
        a = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:most].to(a.device)]
    cos = (normalize(a.detach().double(), dim=1) @ normalize(b.detach().double(), dim=1).T).cpu()
    rows, columns = linear_sum_assignment(cos.numpy(), maximize=True)
    return cos[torch.from_numpy(rows), torch.from_numpy(columns)]


def stability(
    a: Float[Tensor, "n d_model"], b: Float[Tensor, "m d_other"], most: int = MOST, matches: Matches | None = None
) -> Stability:
    """Mean max cosine in both directions, and the one-to-one assignment's mean cosine and fraction of pairs of SAME or more.

    `matches`: `best_matches` of the two, where they are known. Raises ValueError for atoms of another width.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"atoms of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared: pass dictionaries of one backbone."
        )
    found = best_matches(a, b) if matches is None else matches
    mean_a, mean_b = (cosine.double().mean().cpu() for cosine in (found.cosine_a, found.cosine_b))
    pairs = matched_cosines(a, b, most)
    return Stability(mean_a, mean_b, pairs.mean(), (pairs >= SAME).double().mean())

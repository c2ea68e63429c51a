"""Partners of the latents of two dictionaries: atoms by cosine, standardised codes by correlation, top images by Jaccard.

Each latent is a row: its atom, its codes less their mean (whose cosine is the correlation), or 1 at each of its top images.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

SAME = 0.7  # the cosine from which two atoms count as the same latent (Paulo and Belrose 2025, section 3)
CORRELATED = 0.5  # the correlation of codes, or Jaccard of top images, from which two latents count as the same
MOST = 4096  # rows that are matched one to one exactly: the assignment's time is cubic in their number
By = Literal["cosine", "jaccard"]


class Matches(NamedTuple):
    """For each row of a the most similar row of b, and for each of b the one of a; of equal ones that of the lower number."""

    similarity_a: Float[Tensor, " n"]
    partner_a: Int64[Tensor, " n"]  # rows of b
    similarity_b: Float[Tensor, " m"]
    partner_b: Int64[Tensor, " m"]  # rows of a


def similarities(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], by: By = "cosine", *, unit: bool = False
) -> Float[Tensor, "n m"]:
    """Signed cosines, 0 of a zero row (unit: rows have length 1 or 0 already); or of rows of 0 and 1, the columns in both over those in
    either, 0 of two zero rows.

    >>> similarities(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]]), "jaccard").item()
    0.3333333432674408
    """
    if by == "cosine":
        return a @ b.T if unit else normalize(a, dim=1) @ normalize(b, dim=1).T
    both = a @ b.T
    return both.div_((a.sum(1)[:, None] + b.sum(1) - both).clamp_min_(1))


def best_matches(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], by: By = "cosine", block: int = 2048) -> Matches:
    """The best partners in both directions, computed in blocks of block x block.

    >>> [x.tolist() for x in best_matches(torch.eye(2), torch.tensor([[0.0, 3.0]]))]
    [[0.0, 1.0], [0, 0], [1.0], [1]]
    """
    a, b = (normalize(x.detach().float(), dim=1) if by == "cosine" else x for x in (a, b))
    best_a, best_b = a.new_full((len(a),), -2.0), b.new_full((len(b),), -2.0)
    of_a, of_b = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for x in (a, b))
    for i in range(0, len(a), block):
        for j in range(0, len(b), block):
            values = similarities(a[i : i + block], b[j : j + block], by, unit=True)
            for best, of, start, other, dim in ((best_a, of_a, i, j, 1), (best_b, of_b, j, i, 0)):
                value, number = values.max(dim)
                rows = slice(start, start + len(value))
                better = value > best[rows]
                best[rows] = torch.where(better, value, best[rows])
                of[rows] = torch.where(better, number + other, of[rows])
    return Matches(best_a, of_a, best_b, of_b)


def one_to_one(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    matches: Matches,
    threshold: float,
    by: By = "cosine",
    most: int = MOST,
) -> Int64[Tensor, " n"]:
    """For each row of a its partner in b, no row being the partner of two; -1 where it has none.

    The pairs with a similarity of at least the threshold whose sum of similarities is the largest (Hungarian method). Where more than
    `most` rows of a and of b have such a similarity with any row, instead the pairs of which each is the other's best match: never
    more pairs, so a lower bound. `matches`: `best_matches` of a and b.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = (
        (similarity >= threshold).nonzero()[:, 0] for similarity in (matches.similarity_a, matches.similarity_b)
    )
    partner = torch.full_like(matches.partner_a, -1)
    if min(len(rows), len(columns)) > most:
        mutual = rows[matches.partner_b[matches.partner_a[rows]] == rows]
        partner[mutual] = matches.partner_a[mutual]
        return partner
    values = similarities(a[rows].detach().float(), b[columns].detach().float(), by).cpu()
    i, j = (torch.from_numpy(x) for x in linear_sum_assignment(values.where(values >= threshold, 0), maximize=True))
    kept = values[i, j] >= threshold
    partner[rows[i[kept].to(rows.device)]] = columns[j[kept].to(columns.device)]
    return partner


def matched_cosines(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], most: int = MOST) -> Float[Tensor, " pairs"]:
    """Cosine of each pair of the one-to-one assignment of all rows with the largest sum of cosines (Hungarian method), float64.

    The rows of the smaller set are each given a row of the larger. Above `most` a seeded sample of the smaller one is matched with all
    rows of the larger: fewer competitors, so slightly higher cosines.
    """
    from scipy.optimize import linear_sum_assignment

    if len(a) > len(b):
        a, b = b, a
    if len(a) > most:
        a = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:most].to(a.device)]
    cosines = similarities(a.detach().double(), b.detach().double()).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[torch.from_numpy(rows), torch.from_numpy(columns)]

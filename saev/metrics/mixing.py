"""How well a batch of the stream is mixed: entropy of its groups and same-group mates, compared with a perfect shuffle.

A group is an image, a token position or a class, given as one integer id per token. A perfect shuffle draws the batch
from all tokens without replacement, so a group's count in it is hypergeometric.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _group_sizes(ids: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Per token, the number of tokens of the batch with its id. Sorts, so does not synchronise; ids may be any integers."""
    ordered = ids.sort().values
    return torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)


def batch_entropy(ids: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Entropy in bits of the group fractions in a batch: at most log2(batch), 0 when all tokens are of one group.

    `-sum_g (n_g / B) log2 (n_g / B)`.

    >>> batch_entropy(torch.tensor([7, 7, 3, 1]))
    tensor(1.5000, dtype=torch.float64)
    """
    sizes = _group_sizes(ids).double()
    return -(sizes / ids.shape[0]).log2().mean()


def mates(ids: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean over the tokens of a batch of the number of other tokens of the same group (same-image mates).

    >>> mates(torch.tensor([7, 7, 3, 7]))
    tensor(1.5000, dtype=torch.float64)
    """
    return (_group_sizes(ids) - 1).double().mean()


def expected_entropy(population: Int[Tensor, " n_groups"], batch: int) -> float:
    """Expected `batch_entropy` in bits of a perfect shuffle of a dataset with `population[g]` tokens of group g.

    `log2 B - (1/B) sum_g E[n_g log2 n_g]` with `n_g ~ Hypergeometric(N, N_g, B)`, summed exactly.

    >>> round(expected_entropy(torch.tensor([1, 1, 1, 1]), batch=2), 6)  # no group occurs twice
    1.0
    """
    total = _check_batch(population, batch)
    sizes, multiplicity = torch.unique(population[population > 0], return_counts=True)
    surplus = 0.0
    for size, groups in zip(sizes.tolist(), multiplicity.tolist(), strict=True):
        drawn = torch.arange(max(1, batch - (total - size)), min(size, batch) + 1, dtype=torch.float64)
        log_p = _log_binomial(size, drawn) + _log_binomial(total - size, batch - drawn) - _log_binomial(total, batch)
        surplus += groups * float((log_p.exp() * drawn * drawn.log2()).sum())
    return float(torch.tensor(batch, dtype=torch.float64).log2()) - surplus / batch


def expected_mates(population: Int[Tensor, " n_groups"], batch: int) -> float:
    """Expected `mates` of a perfect shuffle: `(B - 1) sum_g (N_g / N) (N_g - 1) / (N - 1)`.

    >>> expected_mates(torch.tensor([2, 2]), batch=4)
    1.0
    """
    total = _check_batch(population, batch)
    sizes = population.double()
    return float((sizes * (sizes - 1)).sum()) / (total * max(total - 1, 1)) * (batch - 1)


def _check_batch(population: Int[Tensor, " n_groups"], batch: int) -> int:
    total = int(population.sum())
    if not 1 <= batch <= total:
        raise ValueError(f"batch={batch} must be between 1 and the {total} tokens of the population it is drawn from.")
    return total


def _log_binomial(n: int, k: Float[Tensor, " *drawn"] | int) -> Float[Tensor, " *drawn"]:
    top, chosen = torch.tensor(n, dtype=torch.float64), torch.as_tensor(k, dtype=torch.float64)
    return torch.lgamma(top + 1) - torch.lgamma(chosen + 1) - torch.lgamma(top - chosen + 1)

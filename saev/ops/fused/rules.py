"""How a sparsifier selects a step's pairs, and what it makes of their gradients."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import BFloat16, Float32
from torch import Tensor

from saev.ops.fused.batchtopk_pairs import batchtopk_pairs
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.pairs_beyond import pairs_beyond
from saev.ops.fused.shapes import padded
from saev.ops.fused.topk_pairs import topk_pairs
from saev.ops.fused.transposed import Transposed, transposed

DENSE = 16  # beyond 1/16 of all entries pairs take longer than matrices

# Of pairs, the gradient of each code with regard to the mean squared error, and the squared error of each row
Decoder = Callable[[Pairs], tuple[Float32[Tensor, " capacity"], Float32[Tensor, " rows"]]]


class Rule(ABC):
    """A sparsifier's training rule, for one step."""

    k = 0  # entries of each row, where all rows have as many
    trains_b_enc = True

    @abstractmethod
    def pairs(self, h: BFloat16[Tensor, "rows d_sae"], buffers: Buffers) -> Pairs | None:
        """The pairs with their codes; None where they are too many for pairs to be faster than matrices."""

    def by_latent(
        self, pairs: Pairs, d_values: Float32[Tensor, " capacity"], decoder: Decoder, buffers: Buffers
    ) -> Transposed:
        """The pairs by latent: codes, gradients of the pre-activations, and in `fired` the number of codes that are not 0."""
        return transposed(pairs, d_values, buffers, self.k)

    def gradients(self, of_bias: Float32[Tensor, " d_sae"] | None) -> list[Float32[Tensor, " d_sae"]]:
        """After `by_latent`: those of the sparsifier's parameters. `of_bias`: b_enc's from further losses, where it is not trained."""
        return []


class TopKRule(Rule):
    """The k largest of each row."""

    def __init__(self, k: int):
        self.k = k

    def pairs(self, h: BFloat16[Tensor, "rows d_sae"], buffers: Buffers) -> Pairs:
        pairs = buffers.equal_rows(self.k, h.shape[1])
        topk_pairs(h, self.k, pairs, buffers)
        return pairs


class BatchTopKRule(Rule):
    """The rows * mean largest of the batch; `smallest` is then the smallest selected, inf where none is."""

    smallest: Float32[Tensor, ""]

    def __init__(self, mean: int):
        self.mean = mean

    def pairs(self, h: BFloat16[Tensor, "rows d_sae"], buffers: Buffers) -> Pairs:
        pairs = buffers.any_rows(len(h) * self.mean, h.shape[1])
        self.smallest = batchtopk_pairs(h, self.mean, pairs, buffers)
        return pairs


def beyond(h: BFloat16[Tensor, "rows d_sae"], bound: Float32[Tensor, " d_sae"], buffers: Buffers) -> Pairs | None:
    """The pairs of all h > bound, with h as values; None where they are more than 1 / DENSE of all entries. Synchronises.

    Buffers grow to what is needed, and stay so large.
    """
    d_sae = h.shape[1]
    pairs = buffers.any_rows(1, d_sae)
    n = int(pairs_beyond(h, bound, pairs, buffers))
    if n > h.numel() // DENSE:  # whatever the capacity, which depends on earlier steps and other members
        pairs.counts.zero_()
        return None
    if n <= len(pairs.latents):
        return pairs
    pairs.counts.zero_()
    pairs = buffers.any_rows(padded(n), d_sae)
    pairs_beyond(h, bound, pairs, buffers)
    return pairs

"""How much memory a bank will take, before it is built. An estimate: benchmarks/README.md has what was measured."""

from typing import NamedTuple

FLOAT = 4  # bytes: parameters, gradients and the optimiser's state are float32 on every device
STATES = 2  # numbers that Adam keeps for each parameter


class Size(NamedTuple):
    """Bytes of one member."""

    fixed: int  # parameters and optimiser state: there as long as the bank is
    passing: int  # gradients and the graph of its own step: one member's at a time


def member_size(d_model: int, d_sae: int, batch_size: int, prefixes: int = 1, copies: int = 5) -> Size:
    """Bytes of an autoencoder in a bank that is stepped on batches of `batch_size` tokens.

    `prefixes` is the number of reconstructions that its objective makes of each token, `copies` that of numbers per token and
    latent: pre-activations, codes, their gradients, what a kernel works in.
    """
    parameters = 2 * d_model * d_sae + d_sae + d_model
    graph = copies * batch_size * d_sae + 3 * prefixes * batch_size * d_model
    return Size(FLOAT * parameters * (1 + STATES), FLOAT * (parameters + graph))

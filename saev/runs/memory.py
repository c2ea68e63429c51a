"""An estimate of a bank's memory before it is built; benchmarks/README.md has measurements."""

from typing import NamedTuple

FLOAT = 4  # bytes: parameters, gradients and the optimiser's state are float32 on every device
STATES = 2  # numbers that Adam keeps for each parameter
START = 2  # bytes: the atoms at the start, float16


class Size(NamedTuple):
    """Bytes of one member."""

    fixed: int  # parameters, optimiser state and the atoms of the start, for the whole run
    passing: int  # gradients and graph of a step, of one member at a time


def member_size(d_model: int, d_sae: int, batch_size: int, prefixes: int = 1, copies: int = 5) -> Size:
    """Bytes of an autoencoder in a bank that is stepped on batches of `batch_size` tokens.

    `prefixes`: reconstructions of a token that the objective compares; `copies`: floats per token and latent (pre-activations,
    codes, their gradients, a kernel's workspace).
    """
    parameters = 2 * d_model * d_sae + d_sae + d_model
    graph = copies * batch_size * d_sae + 3 * prefixes * batch_size * d_model
    start = START * d_model * d_sae
    return Size(FLOAT * parameters * (1 + STATES) + start, FLOAT * (parameters + graph))

"""An estimate of a bank's memory before it is built; benchmarks/README.md has measurements."""

from typing import NamedTuple

FLOAT, HALF = 4, 2  # bytes: parameters, gradients and the optimiser's state are float32 on every device
STATES = 2  # numbers that Adam keeps for each parameter
START = 2  # bytes: the atoms at the start, float16


class Size(NamedTuple):
    """Bytes of one member."""

    fixed: int  # parameters, optimiser state and the atoms of the start, for the whole run
    passing: int  # gradients and graph of a step, of one member at a time


def member_size(
    d_model: int, d_sae: int, batch_size: int, prefixes: int = 1, copies: int = 5, half: bool = False
) -> Size:
    """Bytes of an autoencoder in a bank that is stepped on batches of `batch_size` tokens.

    `prefixes`: reconstructions of a token that the objective compares; `copies`: numbers per token and latent (pre-activations,
    codes, their gradients, a kernel's workspace). `half`: trainer.precision=bf16-mixed. Copies then have two bytes, and one is in
    float32 besides; weights have a bfloat16 copy, autocast's during a step or that of fused steps for the whole run. Fused steps
    need less: their buffers are h and its maxima, residuals of each prefix, and pairs.
    """
    weights = 2 * d_model * d_sae + d_sae
    parameters = weights + d_model
    graph = (HALF * copies + FLOAT if half else FLOAT * copies) * batch_size * d_sae
    residuals = FLOAT * 3 * prefixes * batch_size * d_model
    shadows = HALF * weights if half else 0
    start = START * d_model * d_sae
    return Size(FLOAT * parameters * (1 + STATES) + start + shadows, FLOAT * parameters + graph + residuals + shadows)

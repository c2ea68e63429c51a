"""One exact training step of an autoencoder in a dozen kernels and one product.

    z ─centre─▶ z - b_dec ─product─▶ h ─rule─▶ pairs ─decode_loss─▶ residual, d_values ─transposed─▶ pairs by latent
      ─pair_gradients─▶ dW_dec, dW_enc, db_enc ─b_dec_gradient, finish─▶ b_dec stepped, norm ─adam_atoms─▶ the rest stepped

Products and gathers are bfloat16, sums, parameters, gradients and moments float32. The host reads nothing back except, of rules with
a threshold, the number of pairs. The same input gives the same bits: no kernel adds floats by atomics.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Float32, Int64
from torch import Tensor

from saev.ops import collective
from saev.ops.fused.adam_atoms import AdamState, Shadows, adam_atoms
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.centre import centre
from saev.ops.fused.decode_loss import decode_loss
from saev.ops.fused.decode_prefixes import decode_prefixes
from saev.ops.fused.finish import Numbers, Rates, b_dec_gradient, finish
from saev.ops.fused.pair_gradients import Gradients, pair_gradients
from saev.ops.fused.pairs import Pairs
from saev.ops.fused.rules import Rule
from saev.ops.fused.transposed import Transposed
from saev.ops.gpu_sums import on_its_device


class State(NamedTuple):
    """What a step changes: parameters with Adam's moments and step counts, their bfloat16 shadows, tokens since each latent fired."""

    atoms: AdamState
    encoder: AdamState
    b_enc: AdamState
    b_dec: AdamState
    steps: list[Float32[Tensor, ""]]  # of the four, equal
    shadows: Shadows
    tokens_since_fired: Int64[Tensor, " d_sae"]


class Vector(NamedTuple):
    """A parameter of the sparsifier, one number per latent."""

    state: AdamState
    steps: Float32[Tensor, ""]
    unit: Float32[Tensor, ""] | float = 1.0  # what the rule reads is the parameter times this


class Decoded(NamedTuple):
    """What is known after the forward and backward pass of a batch."""

    residuals: BFloat16[Tensor, "prefixes rows d_model"]  # suffix sums over prefixes of z_hat - z
    squared: Float32[Tensor, " rows"]  # squared errors, summed over prefixes
    last: Float32[Tensor, " rows"]  # of the last prefix
    by_latent: Transposed
    gradients: Gradients


Further = Callable[
    [Decoded, BFloat16[Tensor, "rows d_model"]], None
]  # adds the gradients of a further loss; gets z - b_dec too


@torch.no_grad()
def fused_step(
    z: Float32[Tensor, "rows d_model"],
    rule: Rule,
    state: State,
    ends: Sequence[int],
    rates: Rates,
    buffers: Buffers,
    further: Further | None = None,
    vectors: Sequence[Vector] = (),
) -> Numbers | None:
    """Step `state` by the mean squared error of the prefixes `ends`; of a sharded batch all processes step alike.

    Returns the step's numbers: losses of this process's tokens, L0 and norm of the whole batch. None, and nothing is stepped, where
    pairs are too many. `vectors`: the sparsifier's parameters, in the order of `rule.gradients`.
    """
    z, (rows, d_model), d_sae = z.contiguous(), z.shape, len(state.shadows.atoms)
    buffers, tokens = buffers.for_rows(rows), collective.global_batch_size(rows)
    scale = 2 / (tokens * d_model * len(ends))
    with on_its_device(z), torch.autocast(z.device.type, enabled=False):  # types are as they should be
        centred = buffers("z - b_dec", rows, d_model, dtype=torch.bfloat16)
        h = buffers("h", rows, d_sae, dtype=torch.bfloat16)
        centre(z, state.b_dec.weight, centred)
        torch.addmm(state.shadows.b_enc, centred, state.shadows.encoder.T, out=h)
        pairs = rule.pairs(h, buffers)
        if pairs is None:
            return None
        decoded = decode(z, centred, state, pairs, ends, scale, buffers, rule)
        gradients, fired = decoded.gradients, decoded.by_latent.fired
        b_enc = None if rule.trains_b_enc else gradients.b_enc.clone()
        if further is not None:
            further(decoded, centred)
        g_b_dec = b_dec_gradient(decoded.residuals[0], state.shadows.encoder, gradients.b_enc, scale, buffers)
        if collective.world_size() > 1:
            collective.all_reduce_sum_([gradients.atoms, gradients.encoder, gradients.b_enc, g_b_dec, fired])
            gradients.renew(slice(None), state.atoms.weight)
        of_rule = rule.gradients(None if b_enc is None else gradients.b_enc - b_enc)
        of_vectors = [vector.unit * gradient for vector, gradient in zip(vectors, of_rule, strict=True)]
        if not rule.trains_b_enc:
            gradients.b_enc.zero_()
        for gradient in of_vectors:  # so that the norm has them
            gradients.squares[0] += gradient.square()
        numbers = finish(
            gradients,
            g_b_dec,
            state.b_dec,
            state.steps,
            decoded.squared,
            decoded.last,
            fired,
            len(ends),
            tokens,
            rates,
            buffers,
        )
        adam_atoms(
            state.atoms, state.encoder, state.b_enc, gradients, state.shadows, numbers, fired, state.tokens_since_fired, tokens, rates
        )  # fmt: skip
        for vector, gradient in zip(vectors, of_vectors, strict=True):
            _step_vector(vector, gradient, Numbers(*numbers.unbind()), rates)
        return Numbers(*numbers.clone().unbind())


def _step_vector(vector: Vector, gradient: Float32[Tensor, " d_sae"], numbers: Numbers, rates: Rates) -> None:
    weight, m, v = vector.state
    gradient = gradient * numbers.factor
    vector.steps.add_(1)
    m.lerp_(gradient, 1 - rates.beta1)
    v.lerp_(gradient.square(), 1 - rates.beta2)
    weight.sub_(numbers.size * m / (v.sqrt() / numbers.root + rates.eps))


def decode(
    z: Float32[Tensor, "rows d_model"],
    centred: BFloat16[Tensor, "rows d_model"],
    state: State,
    pairs: Pairs,
    ends: Sequence[int],
    scale: float,
    buffers: Buffers,
    rule: Rule,
) -> Decoded:
    """Errors and gradients of all but b_dec, from pairs."""
    (rows, d_model), b_dec, atoms = z.shape, state.b_dec.weight, state.shadows.atoms
    residuals = buffers("residuals", len(ends), rows, d_model, dtype=torch.bfloat16)
    squared, d_values = buffers("squared", rows), buffers("d_values", len(pairs.latents))
    if len(ends) == 1:
        last, table = squared, None
        decode_loss(z, b_dec, atoms, pairs, scale, residuals[0], d_values, squared, rule.k)
    else:
        last = buffers("last", rows)
        # from page-locked memory, so that copying does not wait for the device
        table = torch.tensor(ends, dtype=torch.int32, pin_memory=z.is_cuda).to(z.device, non_blocking=True)
        decode_prefixes(z, b_dec, atoms, pairs, table, scale, residuals, d_values, squared, last)

    def of_gates(gates: Pairs) -> tuple[Tensor, Tensor]:
        residual = buffers("residual of gates", rows, d_model, dtype=torch.bfloat16)
        d_gates, errors = buffers("d_gates", len(gates.latents)), buffers("squared of gates", rows)
        decode_loss(z, b_dec, atoms, gates, scale * len(ends), residual, d_gates, errors)
        return d_gates, errors

    by_latent = rule.by_latent(pairs, d_values, of_gates, buffers)
    gradients = pair_gradients(residuals, centred, state.atoms.weight, by_latent, scale, buffers, table)
    return Decoded(residuals, squared, last, by_latent, gradients)

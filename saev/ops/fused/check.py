"""Whether the fused step is right on this machine: tested once per shape, on few rows, before the first use."""

import functools
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saev.ops.fused.batchtopk_pairs import batchtopk_pairs
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.finish import Numbers
from saev.ops.fused.pairs_beyond import pairs_beyond
from saev.ops.fused.reference import NAMES, RATES, dense, error, problem, state_of, torch_step
from saev.ops.fused.rules import TopKRule
from saev.ops.fused.step import State, fused_step
from saev.ops.fused.transposed import transposed

log = logging.getLogger(__name__)
WITHIN = 2e-2  # relative error of norms: operands have eight bits


@functools.cache
def usable(device: torch.device, d_model: int, d_sae: int, k: int, prefixes: int) -> bool:
    """Whether the kernels compile for this shape and compute what they should; logs a warning where not. Synchronises."""
    log.info("compiling and testing the fused step on %s: some seconds, the first time on a machine", device)
    try:
        fault = check(device, d_model, d_sae, k, prefixes)
    except Exception:  # of a driver, a compiler, an architecture: torch's operations still work
        log.warning("the fused step is off on %s:", device, exc_info=True)
        return False
    if fault is not None:
        log.warning("the fused step is off on %s: its %s is wrong.", device, fault)
    return fault is None


@functools.cache
def usable_selections(device: torch.device, d_sae: int) -> bool:
    """The same of the kernels that select pairs of a whole batch, or all beyond a bound."""
    try:
        fault = check_selections(device, d_sae)
    except Exception:
        log.warning("selections of pairs are off on %s:", device, exc_info=True)
        return False
    if fault is not None:
        log.warning("selections of pairs are off on %s: %s is wrong.", device, fault)
    return fault is None


def check_selections(device: torch.device, d_sae: int, rows: int = 300, k: int = 4) -> str | None:
    """What differs from sorts and comparisons of whole matrices; None where nothing does. One row has many pairs, and there are ties."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(rows, d_sae, generator=generator).to(device).bfloat16()
    h[3] = h[3].abs() + 3
    bound = torch.full((d_sae,), 2.0, device=device)
    buffers, keys = Buffers(device).for_rows(rows), torch.where(h > 0, h, 0).float().flatten()
    for _ in range(2):
        first = torch.zeros_like(keys)
        order = keys.sort(descending=True, stable=True).indices[: rows * k]  # of equals the first
        first[order] = keys[order]
        pairs = buffers.any_rows(h.numel(), d_sae)
        for name, expected in (
            ("batchtopk", first.view(rows, d_sae)),
            ("beyond", torch.where(h > bound, h, 0).float()),
        ):
            if name == "batchtopk":
                batchtopk_pairs(h, k, pairs, buffers)
            else:
                pairs_beyond(h, bound, pairs, buffers)
            if not torch.equal(pairs.dense(), expected):
                return f"the selection of {name}"
            by_latent = transposed(pairs, pairs.values.float(), buffers)
            row, latent = expected.T.nonzero().T.flip(0)
            n = len(row)
            right = torch.equal(by_latent.rows[:n].long(), row) and int(by_latent.offsets[-1]) == n
            if not (right and torch.equal(by_latent.d_values[:n], expected[row, latent])):
                return f"the order of pairs of {name}"
        buffers.poison()
    return None


def check(device: torch.device, d_model: int, d_sae: int, k: int, prefixes: int = 1, rows: int = 700) -> str | None:
    """What of a step differs from a stable sort and dense autograd in float64; None where nothing does.

    One latent fires on every row: at 700 rows its pairs are split. The second of two steps finds NaN in all buffers, and both
    steps are taken twice, for the same bits.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, d_model, generator=generator).to(device)
    weights = [w.to(device) for w in problem(d_model, d_sae)]
    ends = [d_sae * (p + 1) // prefixes for p in range(prefixes)]
    buffers, results = Buffers(device), []
    for _ in range(2):
        state = state_of(weights)
        numbers = fused_step(z, TopKRule(k), state, ends, RATES, buffers)
        assert numbers is not None
        if fault := _fault(z, k, weights, state, ends, buffers, numbers):
            return fault
        results.append([*(w for s in state[:4] for w in s), *state.shadows, *numbers])
        buffers.poison()
    return None if all(torch.equal(a, b) for a, b in zip(*results, strict=True)) else "result the second time"


def _fault(
    z: Float[Tensor, "rows d_model"],
    k: int,
    weights: Sequence[Float[Tensor, "..."]],
    state: State,
    ends: Sequence[int],
    buffers: Buffers,
    numbers: Numbers,
) -> str | None:
    rows, d_sae = len(z), len(weights[0])
    pairs, h = buffers.equal_rows(k, d_sae), buffers("h", rows, d_sae, dtype=torch.bfloat16)
    order = h.sort(dim=1, descending=True, stable=True).indices[:, :k]  # of equals the first
    latents = torch.where(h.gather(1, order) > 0, order, d_sae).sort(1).values.flatten()
    if not torch.equal(pairs.latents.long(), latents):
        return "selection"
    real = (latents < d_sae).nonzero().squeeze(1)
    by_latent = real[latents[real].sort(stable=True).indices]
    if not torch.equal(buffers("rows", rows * k, dtype=torch.int32)[: len(real)].long(), by_latent // k):
        return "order of pairs"
    expected = dense(z, weights, pairs.dense(), ends)
    gradients = [buffers(f"gradient of {name}", *w.shape) for name, w in zip(NAMES, weights, strict=True)]
    for name, actual, right in zip(NAMES, gradients, expected.gradients, strict=True):
        if not error(actual, right) < WITHIN:
            return f"gradient of {name}"
    if not (error(numbers.loss, expected.loss) < WITHIN and error(numbers.z_mse, expected.last) < WITHIN):
        return "loss"
    norm, stepped = torch_step(weights, gradients)
    if not error(numbers.norm, norm) < WITHIN:
        return "norm"
    for name, s, w, right in zip(NAMES, state[:4], weights, stepped, strict=True):
        if not error(s.weight - w, right - w) < WITHIN:
            return f"step of {name}"
    fired = (pairs.dense() != 0).sum(0)
    right = torch.equal(state.tokens_since_fired, torch.where(fired > 0, 0, 7 + rows))
    return None if right and error(numbers.l0 * rows, fired.sum().float()) < 1e-6 else "count of firing latents"

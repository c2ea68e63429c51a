"""Sparse and dense products, and the kernels of a fused step, timed alternately for one shape, to find the fastest on this machine."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saev.ops.paths import Path
from saev.ops.prefixes import prefix_errors
from saev.ops.sparse import SparseCodes, decode_sparse, with_encoder_gradient

REPEATS = 5
PATHS: tuple[Path, Path] = ("sparse", "dense")


class Timed(NamedTuple):
    """The fastest path, and the median seconds that decoding and all gradients take on each."""

    path: Path | Literal["fused"]
    sparse: float
    dense: float
    fused: float | None = None  # None: not measured


@functools.cache
def faster_path(
    rows: int,
    d_model: int,
    d_sae: int,
    k: int,
    device: torch.device,
    autocast: torch.dtype | None = None,
    prefixes: int = 1,
    fused: bool = False,
) -> Timed:
    """Time the paths on random data, once per shape and process; `prefixes` nested prefixes are decoded, as in a step.

    `fused`: also the kernels of `saev.ops.fused` that take their place in a fused step.
    """
    generator = torch.Generator(device).manual_seed(0)
    z = torch.randn(rows, d_model, generator=generator, device=device)
    w_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=generator, device=device), dim=1)
    offsets = torch.arange(0, rows * k + 1, k, device=device)
    values = torch.rand(rows * k, generator=generator, device=device) + 0.1
    codes = SparseCodes(offsets, uneven(rows, d_sae, k, generator).flatten(), values)
    ends = [round(d_sae * (p + 1) / prefixes) for p in range(prefixes)]
    steps: dict[Path | Literal["fused"], Callable[[], None]] = {
        path: functools.partial(_step, codes, z, w_dec, ends, path, autocast) for path in PATHS
    }
    if fused:
        from saev.ops.fused.timed import prepared  # imports Triton, which not every machine has

        steps["fused"] = prepared(codes, z, w_dec, ends)
    times: dict[Path | Literal["fused"], list[float]] = {path: [] for path in steps}
    for _ in range(REPEATS + 1):
        for path, step in steps.items():
            start = _now(device)
            step()
            times[path].append(_now(device) - start)
    sparse, dense, *other = (statistics.median(spent[1:]) for spent in times.values())  # the first warms up
    fastest = min(times, key=lambda path: statistics.median(times[path][1:]))
    return Timed(fastest, sparse, dense, *other)


def uneven(rows: int, d_sae: int, k: int, generator: torch.Generator) -> Int64[Tensor, "rows k"]:
    """Per row k different latents, ascending; a few are frequent and most rare, as in a trained dictionary.

    One latent from each of k ranges of the dictionary, whose lengths grow geometrically: the n-th latent is active on about
    k / (n log d_sae) of the rows, the first on all.
    """
    ends = [0]
    for i in range(k):
        ends.append(min(d_sae - (k - 1 - i), max(ends[-1] + 1, round(d_sae ** ((i + 1) / k)))))
    first, length = torch.tensor(ends[:-1]), torch.tensor(ends).diff()
    drawn = torch.rand(rows, k, generator=generator, device=generator.device)
    return first.to(drawn.device) + (drawn * length.to(drawn.device)).long()


def _step(
    codes: SparseCodes,
    z: Float[Tensor, "rows d_model"],
    w_dec: Float[Tensor, "d_sae d_model"],
    ends: Sequence[int],
    path: Path,
    autocast: torch.dtype | None,
) -> None:
    w_enc, w_dec = w_dec.T.detach().requires_grad_(), w_dec.detach().requires_grad_()
    b_enc, b_dec = (z.new_zeros(n, requires_grad=True) for n in w_dec.shape)
    with torch.autocast(z.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
        if autocast is not None:
            codes = codes._replace(values=codes.values.to(autocast))
        active = with_encoder_gradient(codes, z, w_enc, b_enc, b_dec, path)
        if len(ends) > 1:
            loss, _ = prefix_errors(active, w_dec, z, ends, path)
        else:
            loss = (z - decode_sparse(active, w_dec, path)).square().mean()
    torch.autograd.grad(loss, [w_enc, b_enc, w_dec, b_dec])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

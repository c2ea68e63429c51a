"""Kernels beside their plain references: `python benchmarks/bench_ops.py [--quick] [--check]`.

Reference and ours run in turn in one process; a row shows the median times and the median of the ratios. `--check` exits
with 1 where a ratio misses its goal. A step is encode, select, decode, backward to all four parameters.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.ops_reference import batchtopk_reference, coherence_reference
from saev.ops.coherence import coherence
from saev.ops.prefixes import prefix_errors
from saev.ops.sparse import batchtopk_select, decode_sparse, topk_select, with_encoder_gradient
from saev.ops.topk import batchtopk, topk

ENDS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


class Step:
    """One training step of a bias-carrying autoencoder on random data, dense or sparse."""

    def __init__(self, batch: int, d_model: int, d_sae: int):
        torch.manual_seed(0)
        self.z = torch.randn(batch, d_model)
        self.w_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_model)).requires_grad_()
        self.w_enc = self.w_dec.detach().T.contiguous().requires_grad_()
        self.b_enc = torch.zeros(d_sae, requires_grad=True)
        self.b_dec = torch.zeros(d_model, requires_grad=True)
        self.ends = [int(share * d_sae) for share in ENDS]

    def dense(self, select: Callable[..., Any], k: int, prefixes: bool) -> None:
        h = self._pre_activations()
        indices = select(h, k).indices  # the fast selection in both: what is compared is the rest
        f = torch.zeros_like(h).flatten().scatter(0, indices, h.flatten()[indices].relu()).view_as(h)
        residual, losses = self.z - self.b_dec, []
        for start, end in zip([0, *self.ends], self.ends, strict=False) if prefixes else [(0, len(self.w_dec))]:
            residual = residual - f[:, start:end] @ self.w_dec[start:end]
            losses.append(residual.square().mean())
        self._backward(torch.stack(losses).mean())

    def sparse(self, select: Callable[..., Any], k: int, prefixes: bool) -> None:
        with torch.no_grad():
            h = self._pre_activations()
        codes = with_encoder_gradient(select(h, k), self.z, self.w_enc, self.b_enc, self.b_dec)
        if prefixes:
            self._backward(prefix_errors(codes, self.w_dec, self.z - self.b_dec, self.ends)[0])
        else:
            self._backward((self.z - self.b_dec - decode_sparse(codes, self.w_dec)).square().mean())

    def _pre_activations(self) -> Tensor:  # with b_dec folded into the bias its gradient costs no product of matrices
        return torch.addmm(self.b_enc - self.b_dec @ self.w_enc, self.z, self.w_enc)

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.grad(loss, [self.w_enc, self.b_enc, self.w_dec, self.b_dec])


def rows(batch: int, d_model: int, d_sae: int) -> list[tuple[str, Callable, Callable, float]]:
    """(name, reference, ours, least ratio wanted)."""
    step = Step(batch, d_model, d_sae)
    found: list[tuple[str, Callable, Callable, float]] = []
    for k in (16, 32):
        for name, dense, sparse in (
            ("topk", topk, topk_select),
            ("batchtopk", batchtopk, batchtopk_select),
        ):
            for prefixes in (False, True):
                ours, reference = partial(step.sparse, sparse, k, prefixes), partial(step.dense, dense, k, prefixes)
                found.append(
                    (f"step {name} k={k}{' matryoshka' if prefixes else ''}", reference, ours, 1.5 if prefixes else 2.0)
                )
    with torch.no_grad():
        h = step.z @ step.w_enc
    found.append(("topk selection k=32", partial(h.topk, 32, sorted=False), partial(topk, h, 32), 1.2))
    found.append(("batchtopk selection k=32", partial(batchtopk_reference, h, 32), partial(batchtopk, h, 32), 5.0))
    atoms = step.w_dec.detach()
    found.append(("coherence", partial(coherence_reference, atoms), partial(coherence, atoms), 1.2))
    return found


def measure(reference: Callable, ours: Callable, repeats: int) -> tuple[float, float, float]:
    """Median seconds of both, run in turn, and the median of their ratio."""
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        reference()
        middle = time.perf_counter()
        ours()
        times.append((middle - start, time.perf_counter() - middle))
    pairs = times[1:]  # the first warms up
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: under a minute on 2 cores")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--d-sae", type=int, default=3072)
    args = parser.parse_args()
    table = Table(
        "op", "reference ms", "ours ms", "ratio", "goal",
        title=f"batch {args.batch}, d_model {args.d_model}, d_sae {args.d_sae}, {torch.get_num_threads()} CPU threads",
    )  # fmt: skip
    missed = 0
    for name, reference, ours, goal in rows(args.batch, args.d_model, args.d_sae):
        a, b, ratio = measure(reference, ours, repeats=5 if args.quick else 25)
        missed += ratio < goal
        style = "red" if ratio < goal else None
        table.add_row(name, f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{ratio:.2f}", f"{goal:.1f}", style=style)
    Console().print(table)
    return int(args.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())

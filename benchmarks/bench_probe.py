"""1-D probes of all (latent, class) pairs: `python benchmarks/bench_probe.py [--quick] [--check]`.

On synthetic codes (heavy-tailed values, firing frequencies log-uniform, a third of the latents fond of a class; classes by
Zipf's law): (1) statistics and solve beside Levenberg-Marquardt over the nonzeros of each pair, 30 iterations in float32,
timed on a sample of latents and scaled by nonzeros; (2) excess loss beside a float64 Newton on the tokens; (3) time of the
solve at four times the tokens, for each pair that is not separable (more tokens leave fewer of the separable ones, which
cost next to nothing); (4) all pairs at full size, without weights and balanced, seconds and memory, each in a process of its
own; (5) the rankings' rows. Times are CPU seconds on one thread, which neighbours disturb least. `--check` exits with 1 where
a goal is missed.

The reference's time is in proportion to the firings of a latent, ours hardly depends on them. In use there are many: 20,000
images of 256 tokens and a frequency of 0.4 % make 20,000. (1) to (3) therefore have frequencies from 1e-3 to 0.5, some
4,000 firings a latent in 60,000 tokens; a second row, without a goal, and (4) have 1e-4 to 0.1, about 800 a latent.
"""

import argparse
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from saev.ops.sparse import SparseCodes
from saev.probing.logistic import RIDGE, LogisticFit, Status, cross_entropy, solve
from saev.probing.nodes import exact_nodes, nodes
from saev.probing.statistics import LatentLabelStats
from saev.probing.table import LabelTable
from saev.probing.weighting import Weights, fit_all

CLASSES = 151
ITERATIONS = 30  # of the reference
USUAL, SPARSE = (1e-3, 0.5), (1e-4, 0.1)  # firing frequencies
T = TypeVar("T")
Row = tuple[str, str, float, str, float | str, bool]  # what, measured, value, relation, goal, reached


def world(
    n_tokens: int, n_latents: int, frequencies: tuple[float, float] = SPARSE, seed: int = 0
) -> tuple[SparseCodes, Tensor]:
    """Codes of latents that fire with frequencies in this range, and the class of each token."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, CLASSES + 1)
    labels = rng.choice(CLASSES, n_tokens, p=zipf / zipf.sum())
    members = [np.flatnonzero(labels == c) for c in range(CLASSES)]
    tokens, values = [], []
    for latent in range(n_latents):
        token = rng.choice(n_tokens, rng.binomial(n_tokens, 10 ** rng.uniform(*np.log10(frequencies))), replace=False)
        value = np.exp(rng.normal() + rng.uniform(0.3, 1.2) * rng.normal(size=len(token)))
        own = members[rng.integers(CLASSES)]
        if latent % 3 == 0 and len(own):
            fond = len(token) // 2
            token[:fond], value[:fond] = rng.choice(own, fond), 2 * value[:fond]
        token, first = np.unique(token, return_index=True)
        tokens.append(token)
        values.append(value[first])
    latents = np.repeat(np.arange(n_latents, dtype=np.int32), [len(t) for t in tokens])
    token, value = np.concatenate(tokens), np.concatenate(values).astype(np.float32)
    by_token = np.argsort(token, kind="stable")
    offsets = np.searchsorted(token[by_token], np.arange(n_tokens + 1))
    columns = offsets, latents[by_token], value[by_token]
    return SparseCodes(*map(torch.from_numpy, columns)), torch.from_numpy(labels)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    done = work()
    return time.process_time() - start, done


def best_of_three(work: Callable[[], T]) -> tuple[float, T]:
    """For what takes a second: the least disturbed."""
    return min((timed(work) for _ in range(3)), key=lambda found: found[0])


def gathered(codes: SparseCodes, labels: Tensor, n_latents: int, batch: int = 16384) -> LabelTable:
    """The table, from batches as they would be streamed."""
    stats = LatentLabelStats(n_latents, CLASSES)
    for first in range(0, len(labels), batch):
        offsets = codes.offsets[first : first + batch + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        stats.update(
            SparseCodes(offsets - offsets[0], codes.latents[part], codes.values[part]), labels[first : first + batch]
        )
    return stats.compute()


def columns(codes: SparseCodes, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number within `some`, token and value of the nonzeros of these latents."""
    at = torch.isin(codes.latents, some.int()).nonzero().squeeze(1)
    return torch.searchsorted(some, codes.latents[at].long()), codes.rows()[at], codes.values[at]


def levenberg_marquardt(
    latent: Tensor, token: Tensor, x: Tensor, labels: Tensor, n_latents: int
) -> tuple[Tensor, Tensor]:
    """b and w [latents, classes], float32: per iteration, nonzero and class a gather, a sigmoid and the sums of gradient
    and Gauss-Newton matrix; tokens without the code enter by their number. A damping per pair, lowered while the loss falls.
    """
    positives = torch.bincount(labels, minlength=CLASSES).float()
    y = torch.nn.functional.one_hot(labels[token], CLASSES).float()
    x, n = x[:, None], len(labels)
    zeros = torch.zeros(n_latents, CLASSES)
    silent = n - torch.bincount(latent, minlength=n_latents).float()[:, None]
    silent_positives = positives - zeros.index_add(0, latent, y)
    b = torch.logit(positives.clamp(0.5, n - 0.5) / n).expand(n_latents, -1).clone()
    w, damping, best = zeros.clone(), zeros + 1e-3, zeros + torch.inf
    db, dw = zeros.clone(), zeros.clone()
    for _ in range(ITERATIONS):
        t = (b + db)[latent] + (w + dw)[latent] * x
        s, s0 = t.sigmoid(), (b + db).sigmoid()
        loss = zeros.index_add(0, latent, torch.nn.functional.softplus(t) - y * t)
        loss += silent * torch.nn.functional.softplus(b + db) - silent_positives * (b + db)
        better = loss < best
        b, w, best = torch.where(better, b + db, b), torch.where(better, w + dw, w), torch.where(better, loss, best)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-8, 1e8)
        r, q = s - y, s * (1 - s)
        g0 = zeros.index_add(0, latent, r) + silent * s0 - silent_positives
        g1 = zeros.index_add(0, latent, r * x) + n * RIDGE * (w + dw)
        h00 = zeros.index_add(0, latent, q) + silent * s0 * (1 - s0)
        h01, h11 = zeros.index_add(0, latent, q * x), zeros.index_add(0, latent, q * x * x) + n * RIDGE
        h00, h11 = h00 * (1 + damping) + 1e-9, h11 * (1 + damping) + 1e-9
        determinant = (h00 * h11 - h01 * h01).clamp(min=1e-12)
        db = torch.where(better, -(h11 * g0 - h01 * g1) / determinant, db / 10)
        dw = torch.where(better, -(h00 * g1 - h01 * g0) / determinant, dw / 10)
    return b, w


def reference(codes: SparseCodes, labels: Tensor, some: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds for all latents from those for some, and the b and w [some, classes] of these."""
    latent, token, value = columns(codes, some)
    spent, found = 0.0, []
    for k in range(len(some)):  # a latent with all classes is a slab
        mine = latent == k
        seconds, fit = timed(lambda m=mine: levenberg_marquardt(0 * latent[m], token[m], value[m], labels, 1))
        spent += seconds
        found.append(torch.stack(fit))
    b, w = torch.cat(found, 1).double()
    return spent * len(codes.values) / len(value), b, w


def fitted(table: LabelTable) -> LogisticFit:
    return solve(nodes(table), table.positives, table.p1)


def beside_reference(n_tokens: int, n_latents: int, sample: int) -> list[Row]:
    """Time and excess loss of statistics and solve, and how the solve's time grows with tokens."""
    codes, labels = world(n_tokens, n_latents, USUAL)
    counting, table = best_of_three(lambda: gathered(codes, labels, n_latents))
    solving, fit = best_of_three(lambda: fitted(table))
    some = torch.arange(0, n_latents, n_latents // sample)
    spent, *theirs = reference(codes, labels, some)
    latent, _, value = columns(codes, some)
    exact, p1 = exact_nodes(latent, value.double(), len(some), n_tokens), table.p1[some]
    best = solve(exact, table.positives, p1, tolerance=1e-14)
    variance = exact.moments()[1].square()[:, None]

    def excess(b: Tensor, w: Tensor) -> Tensor:
        here = cross_entropy(exact, table.positives, p1, b, w) + RIDGE / 2 * w.square() * variance
        there = best.loss + RIDGE / 2 * best.w.square() * variance
        return (here / there - 1)[best.status == Status.CONVERGED]

    ours, words = excess(fit.b[some], fit.w[some]), f"of {int((best.status == Status.CONVERGED).sum())} pairs"
    beside = excess(*theirs)
    stopped = int((fit.status == Status.STOPPED).sum())
    larger = gathered(*world(4 * n_tokens, n_latents, USUAL), n_latents)
    again, more = best_of_three(lambda: fitted(larger))
    pairs, more_pairs = (int((x.status == Status.CONVERGED).sum()) for x in (fit, more))
    growth = again / solving * pairs / more_pairs
    compared = f"{words}; theirs: median {float(beside.median()):.0e}, max {float(beside.max()):.0e}"
    return [
        beside_row(codes, counting, solving, spent, n_latents, len(some), 100),
        ("largest excess loss, relative", compared, float(ours.max()), "at most", 1e-9, float(ours.max()) <= 1e-9),
        ("pairs that did not converge", f"of {fit.status.numel()}", stopped, "at most", 0, stopped == 0),
        (
            "solve at 4 x the tokens, time for a pair",
            f"{solving:.2f} s for {pairs} pairs, {again:.2f} s for {more_pairs}",
            growth,
            "x at most",
            1.3,
            growth <= 1.3,
        ),
    ]


def beside_row(
    codes: SparseCodes, counting: float, solving: float, spent: float, n_latents: int, sample: int, goal: int | None
) -> Row:
    """Their time to ours."""
    size = f"{n_latents} x {CLASSES}, {len(codes.values) / n_latents:.0f} firings a latent"
    took = f"ours {counting:.2f} + {solving:.2f} s, theirs {spent:.0f} s (from {sample} latents)"
    ratio = spent / (counting + solving)
    relation, shown = ("x at least", goal) if goal else ("x", "none")
    return f"{size}: Levenberg-Marquardt, time", took, ratio, relation, shown, ratio >= (goal or 0)


def beside_reference_sparse(n_tokens: int, n_latents: int, sample: int) -> Row:
    """The time alone, of latents that fire seldom."""
    codes, labels = world(n_tokens, n_latents, SPARSE)
    counting, table = best_of_three(lambda: gathered(codes, labels, n_latents))
    solving, _ = best_of_three(lambda: fitted(table))
    spent = reference(codes, labels, torch.arange(0, n_latents, n_latents // sample))[0]
    return beside_row(codes, counting, solving, spent, n_latents, sample, None)


def peak() -> float:
    """GiB this process has held at most. (`getrusage` would start from what its parent held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def full_size(saved: str, weights: Weights) -> tuple[float, float]:
    """CPU seconds, and by how many GiB the peak of memory rose, of solving all pairs of a saved table."""
    table = LabelTable(**torch.load(saved))
    before = peak()
    seconds, _ = timed(lambda: fit_all(table, 3, weights))
    return seconds, peak() - before


def alone(n_tokens: int, n_latents: int) -> list[Row]:
    """`full_size` in a process that did nothing else, so that no earlier peak hides the solve's."""
    codes, labels = world(n_tokens, n_latents)
    table = gathered(codes, labels, n_latents)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({field.name: getattr(table, field.name) for field in dataclasses.fields(table)}, file.name)
        rows: list[Row] = []
        for weights, goal in (("none", 60), ("balanced", 300)):
            command = [sys.executable, __file__, "--full-size-of", file.name, "--weights", weights]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, grown = map(float, done.stdout.split()[-2:])
            what, load = f"{n_latents} x {CLASSES}, weights={weights}", f"load {os.getloadavg()[0]:.1f}"
            rows += [
                (f"{what}: CPU seconds", load, seconds, "at most", goal, seconds <= goal),
                (f"{what}: peak memory rose by GiB", "", grown, "at most", 2, grown <= 2),
            ]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=512, help="beside the reference")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--quick", action="store_true", help="smaller sample, full size an eighth: under a minute")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--full-size-of", help="a saved table: print CPU seconds and GiB of its solve and stop")
    parser.add_argument("--weights", choices=get_args(Weights), default="none", help="of --full-size-of")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.full_size_of:
        print(*full_size(args.full_size_of, args.weights))
        return 0
    sample = 8 if args.quick else 64
    found = [
        *beside_reference(args.tokens, args.latents, sample),
        beside_reference_sparse(args.tokens, args.latents, sample),
    ]
    found += alone(args.tokens, 2048 if args.quick else 16384)
    if importlib.util.find_spec("benchmarks.probe_ranking"):
        from benchmarks import probe_ranking

        found += probe_ranking.rows(args.quick)
    title = f"{args.tokens} tokens, one thread, CPU seconds, load {os.getloadavg()[0]:.1f}"
    table = Table("what", "measured", "value", "", "goal", title=title)
    for what, measured, value, relation, goal, reached in found:
        table.add_row(what, measured, f"{value:.3g}", relation, f"{goal}", style=None if reached else "red")
    Console(width=160).print(table)
    return int(args.check and not all(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())

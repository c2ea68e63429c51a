"""1-D probes of all (latent, class) pairs: `python benchmarks/bench_probe.py [--quick] [--check]`.

On synthetic codes (heavy-tailed values, firing frequencies log-uniform over 1e-4 to 0.1, a third of the latents fond of a
class; classes by Zipf's law): (1) statistics and solve beside Levenberg-Marquardt over the nonzeros of each pair, 30
iterations in float32, timed on a sample of latents and scaled by nonzeros; (2) excess loss beside a float64 Newton on the
tokens; (3) time of the solve at four times the tokens; (4) all pairs at full size, seconds and memory, in a process of its
own; (5) the rankings' rows. Times are CPU seconds on one thread, which neighbours disturb least. `--check` exits with 1
where a goal is missed.
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
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from saev.ops.sparse import SparseCodes
from saev.probing.logistic import RIDGE, Status, cross_entropy, solve
from saev.probing.nodes import exact_nodes, nodes
from saev.probing.statistics import LatentLabelStats
from saev.probing.table import LabelTable

CLASSES = 151
ITERATIONS = 30  # of the reference
T = TypeVar("T")
Row = tuple[str, str, float, str, float, bool]  # what, measured, value, relation, goal, reached


def world(n_tokens: int, n_latents: int, seed: int = 0) -> tuple[SparseCodes, Tensor]:
    """Codes, and the class of each token."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, CLASSES + 1)
    labels = rng.choice(CLASSES, n_tokens, p=zipf / zipf.sum())
    members = [np.flatnonzero(labels == c) for c in range(CLASSES)]
    tokens, values = [], []
    for latent in range(n_latents):
        token = rng.integers(n_tokens, size=rng.poisson(10 ** rng.uniform(-4, -1) * n_tokens))
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


def beside_reference(n_tokens: int, n_latents: int, sample: int) -> list[Row]:
    """Time and excess loss of statistics and solve, and how the solve's time grows with tokens."""
    codes, labels = world(n_tokens, n_latents)
    counting, table = timed(lambda: gathered(codes, labels, n_latents))
    solving, fit = min(
        (timed(lambda: solve(nodes(table), table.positives, table.p1)) for _ in range(2)), key=lambda x: x[0]
    )
    some = torch.arange(0, n_latents, n_latents // sample)
    latent, token, value = columns(codes, some)
    spent = 0.0
    theirs = torch.empty(2, len(some), CLASSES)
    for k in range(len(some)):  # a latent with all classes is a slab
        mine = latent == k
        seconds, found = timed(lambda m=mine: levenberg_marquardt(0 * latent[m], token[m], value[m], labels, 1))
        theirs[:, k], spent = torch.cat(found), spent + seconds
    theirs, spent = theirs.double(), spent * len(codes.values) / len(value)
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
    more, more_labels = world(4 * n_tokens, n_latents)
    larger = gathered(more, more_labels, n_latents)
    again = min(timed(lambda: solve(nodes(larger), larger.positives, larger.p1))[0] for _ in range(2))
    size = f"{n_latents} x {CLASSES}, L0 {len(codes.values) / n_tokens:.0f}"
    took = f"ours {counting:.1f} + {solving:.1f} s, theirs {spent:.0f} s (from {len(some)} latents)"
    reference = f"{words}; theirs: median {float(beside.median()):.0e}, max {float(beside.max()):.0e}"
    ratio, growth = spent / (counting + solving), again / solving
    return [
        (f"{size}: Levenberg-Marquardt, time", took, ratio, "x at least", 100, ratio >= 100),
        ("largest excess loss, relative", reference, float(ours.max()), "at most", 1e-9, float(ours.max()) <= 1e-9),
        ("pairs that did not converge", f"of {fit.status.numel()}", stopped, "at most", 0, stopped == 0),
        (
            "time of the solve, 4 x the tokens",
            f"{solving:.1f} s, {again:.1f} s",
            growth,
            "x at most",
            1.3,
            growth <= 1.3,
        ),
    ]


def peak() -> float:
    """GiB this process has held at most. (`getrusage` would start from what its parent held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def full_size(saved: str) -> tuple[float, float]:
    """CPU seconds, and by how many GiB the peak of memory rose, of solving all pairs of a saved table."""
    table = LabelTable(**torch.load(saved))
    before = peak()
    seconds, _ = timed(lambda: solve(nodes(table), table.positives, table.p1))
    return seconds, peak() - before


def alone(n_tokens: int, n_latents: int) -> list[Row]:
    """`full_size` in a process that did nothing else, so that no earlier peak hides the solve's."""
    codes, labels = world(n_tokens, n_latents)
    table = gathered(codes, labels, n_latents)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({field.name: getattr(table, field.name) for field in dataclasses.fields(table)}, file.name)
        command = [sys.executable, __file__, "--full-size-of", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, grown = map(float, done.stdout.split()[-2:])
    what, load = f"{n_latents} x {CLASSES} from statistics", f"load {os.getloadavg()[0]:.1f}"
    return [
        (f"{what}: CPU seconds", load, seconds, "at most", 60, seconds <= 60),
        (f"{what}: peak memory rose by GiB", "", grown, "at most", 2, grown <= 2),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=2048, help="beside the reference")
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--quick", action="store_true", help="512 latents, full size an eighth: under a minute")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--full-size-of", help="a saved table: print CPU seconds and GiB of its solve and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.full_size_of:
        print(*full_size(args.full_size_of))
        return 0
    latents = 512 if args.quick else args.latents
    found = beside_reference(args.tokens, latents, 8 if args.quick else 64)
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

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
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import probe_ranking
from benchmarks.probe_reference import CLASSES, SPARSE, USUAL, columns, exact_nodes, reference, timed, world
from saev.ops.sparse import SparseCodes
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import LabelTable
from saev.probing.logistic.fit import RIDGE, LogisticFit, Status, cross_entropy, solve
from saev.probing.logistic.nodes import nodes
from saev.probing.logistic.weighting import fit_all
from saev.probing.settings import Weights

T = TypeVar("T")
Row = tuple[str, str, float, str, float | str, bool]  # what, measured, value, relation, goal, reached


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
    found += probe_ranking.rows(args.quick)
    title = f"{args.tokens} tokens, one thread, CPU seconds, load {os.getloadavg()[0]:.1f}"
    table = Table("what", "measured", "value", "", "goal", title=title)
    for what, measured, value, relation, goal, reached in found:
        table.add_row(what, measured, f"{value:.3g}", relation, f"{goal}", style=None if reached else "red")
    Console(width=160).print(table)
    return int(args.check and not all(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())

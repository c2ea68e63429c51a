"""AP and AUROC of all (latent, class) pairs beside scikit-learn: `python benchmarks/probe_ranking.py [--quick] [--check]`.

Synthetic codes (L0 tokens' worth of log-normal float16 values, latents that prefer classes) of as many tokens as a validation split
has patches. scikit-learn is timed on a sample of the pairs and extrapolated linearly: its cost is the same for every pair.
Times are CPU seconds on one thread, which neighbours disturb least. `--check` exits with 1 where a goal is missed.
"""

import argparse
import os
import sys

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.probe_reference import CLASSES, timed
from saev.ops.sparse import SparseCodes
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import LabelTable
from saev.probing.ranking import auroc, average_precision

L0, BATCH = 48, 16384
Row = tuple[str, str, float, str, float, bool]  # what, measured, value, relation, goal, reached


def batch(k: int, latents: int, tokens: int = BATCH) -> tuple[SparseCodes, Tensor]:
    """L0 latents a token, one of each L0-th part; the values of a latent are larger on its own class."""
    rng = torch.Generator().manual_seed(k)
    labels = (torch.rand(tokens, generator=rng) ** 3 * CLASSES).long()  # some classes are rare
    part = latents // L0
    latent = (torch.rand(tokens, L0, generator=rng) * part).long() + torch.arange(L0) * part
    values = torch.randn(tokens, L0, generator=rng) + 2.0 * (latent % CLASSES == labels[:, None])
    return SparseCodes(
        torch.arange(0, tokens * L0 + 1, L0), latent.int().flatten(), values.exp().half().float().flatten()
    ), labels


def gathered(latents: int, batches: int, bits: int) -> tuple[float, LabelTable]:
    """CPU seconds of `update` and `compute` together, and the table."""
    stats, spent = LatentLabelStats(latents, CLASSES, bits), 0.0
    for k in range(batches):
        codes, labels = batch(k, latents)
        spent += timed(lambda c=codes, y=labels: stats.update(c, y))[0]
    seconds, table = timed(stats.compute)
    return spent + seconds, table


def rankings(latents: int, batches: int, sample: int) -> list[Row]:
    """Speed and agreement on all pairs and a sample of them; scikit-learn has the same codes, dense."""
    data = [batch(k, latents) for k in range(batches)]
    x, y = torch.cat([codes.dense(latents) for codes, _ in data]), torch.cat([labels for _, labels in data]).numpy()
    pairs = np.random.default_rng(0).choice(latents * CLASSES, sample, replace=False)
    pairs = [(int(p // CLASSES), int(p % CLASSES)) for p in pairs]
    columns = [(x[:, latent].numpy().copy(), y == label) for latent, label in pairs]
    theirs, roc = timed(lambda: [(average_precision_score(hit, c), roc_auc_score(hit, c)) for c, hit in columns])
    theirs *= latents * CLASSES / sample
    out: list[Row] = []
    for bits, goal in ((23, 1e-12), (10, 1e-6)):
        seconds, table = gathered(latents, batches, bits)
        ours, (_, area) = timed(lambda t=table: (average_precision(t), auroc(t)))
        times = theirs / (ours + seconds)
        words = f"ours {seconds:.1f} + {ours:.1f} s, theirs {theirs:.0f} s ({sample} of {latents * CLASSES} pairs)"
        apart = max(abs(area[p].item() - r[1]) for p, r in zip(pairs, roc, strict=True))
        out += [
            (f"{bits} bits: gathering, AP and AUROC", words, times, "x at least", 500, times >= 500),
            (f"{bits} bits: AUROC beside theirs", f"{len(table.key)} groups", apart, "at most", goal, apart <= goal),
        ]
        if bits == 23:
            exact = average_precision(table)
        else:
            apart = (average_precision(table) - exact).abs().nan_to_num().max().item()
            out.append((f"{bits} bits: AP beside 23 bits", "all pairs", apart, "at most", goal, apart <= goal))
    return out


def linearity(latents: int, batches: int) -> list[Row]:
    """Time per code that is not 0, and what four times the tokens make of it; from more codes than are sorted at once."""
    few, many = (gathered(latents, n, 7)[0] / (n * BATCH * L0) for n in (batches, 4 * batches))
    words = f"{few * 1e9:.0f} ns a code, {many * 1e9:.0f} ns with {4 * batches * BATCH} tokens"
    return [("7 bits: statistics at 4 x the tokens", words, many / few, "at most", 1.3, many <= 1.3 * few)]


def widths(latents: int, batches: int) -> list[Row]:
    """What bins cost where codes are float32: the largest and the mean difference of AP, beside every value on its own."""
    tables = {}
    for bits in (23, 10, 7, 4):
        stats = LatentLabelStats(latents, CLASSES, bits)
        for k in range(batches):
            codes, labels = batch(k, latents)
            noise = torch.rand(len(codes.values), generator=torch.Generator().manual_seed(k)) * 2**-11
            stats.update(codes._replace(values=codes.values * (1 + noise)), labels)
        tables[bits] = average_precision(stats.compute())
    exact, out = tables.pop(23), []
    for bits, found in tables.items():
        apart = (found - exact).abs().nan_to_num()
        goal = 2.0 ** -(bits - 1)
        words = f"mean {apart.mean():.1e}; best latent of a class {(found.amax(0) - exact.amax(0)).abs().nan_to_num().max():.1e}"
        largest = apart.max().item()
        out.append((f"{bits} bits, float32 codes: AP apart", words, largest, "at most", goal, largest <= goal))
    return out


def rows(quick: bool) -> list[Row]:
    """All measurements; quick ones on a quarter of the tokens and latents."""
    torch.set_num_threads(1)
    latents, batches, sample = (240, 1, 60) if quick else (1008, 4, 200)
    with threadpool_limits(1):
        return rankings(latents, batches, sample) + widths(latents, batches) + linearity(96, 8 if quick else 16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    args = parser.parse_args()
    found = rows(args.quick)
    table = Table(
        "what", "measured", "value", "", "goal", title=f"one thread, CPU seconds, load {os.getloadavg()[0]:.1f}"
    )
    for what, measured, value, relation, goal, reached in found:
        table.add_row(what, measured, f"{value:.3g}", relation, f"{goal:g}", style=None if reached else "red")
    Console(width=140).print(table)
    return int(args.check and not all(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())

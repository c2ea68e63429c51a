"""The activation stream beside memory, webdataset and a row-wise shuffle: `python benchmarks/bench_stream.py`.

One dataset of 256 tokens x 1024 float16 values an image; all contenders run in turn in one process, in alternating order,
three rounds; a row shows medians of tokens per second and of the ratios. Rows are checked before they are timed.
`--quick` takes a smaller dataset, `--check` exits with 1 where a goal is missed, `--loaded` keeps every core busy with other
work meanwhile, `--dir` keeps the dataset for the next time.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stream_references import (
    BATCH,
    TOKENS,
    Gather,
    identify,
    record,
    reservoir_rows,
    webdataset_rows,
    webdataset_sequential,
)

from datamodules import ActivationDataModule
from saev.metrics.mixing import batch_entropy, expected_entropy, expected_mates, mates
from saev.shards import ActivationStore
from saev.shards.epoch_plan import EpochPlan
from saev.shards.selection import Spans, positions

POOL = 1 << 20
STEPS = {"webdataset rows": 8, "row-wise reservoir": 3, "webdataset in order": 4000}
BUSY = "while True: pass"
Row = tuple[str, str, float, str, float, bool]  # what, measured, value, reference, goal, reached


def stream(root: Path, reader: str = "mapped", depth: int = 2) -> ActivationDataModule:
    data = ActivationDataModule(
        str(root), 0, BATCH, tokens="patches", val_fraction=1e-9, reader=reader, pool=POOL, depth=depth
    )
    data.setup("fit")
    return data


def epoch(data: ActivationDataModule, running: bool = False) -> Iterator[dict[str, Any]]:
    """An epoch's batches; of a `running` stream, whose two windows have been drawn from once and so are in memory."""
    plan = data.stream(data.train_examples).plan
    with contextlib.closing(iter(data.train_dataloader())) as batches:
        if running:
            yield next(itertools.islice(batches, 2 * plan.batches_per_window, None))
        yield from itertools.islice(batches, plan.n_batches)


def verify(data: ActivationDataModule) -> None:
    """Every row of an epoch is the token it is said to be, and comes once."""
    seen = np.zeros((data.store.manifest.n_examples, TOKENS), np.int8)  # type: ignore[union-attr]
    for batch in epoch(data):
        example, token = identify(batch["acts"].numpy())
        assert (example == batch["example"].numpy()).all() and (token == batch["token"].numpy()).all()
        np.add.at(seen, (example, token), 1)
    assert (seen[data.train_examples] == 1).all() and seen.sum() == seen[data.train_examples].sum()


def rate(batches: Iterator[Any], most: int | None) -> float:
    """Tokens per second of the batches after the first, at most so many."""
    next(batches)
    start, tokens = time.perf_counter(), 0
    for batch in itertools.islice(batches, most):
        tokens += len(batch["acts"] if isinstance(batch, dict) else batch)
    return tokens / (time.perf_counter() - start)


def rounds(contenders: dict[str, Callable[[], Iterator[Any]]], n: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(n):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            rates[name].append(rate(contenders[name](), STEPS.get(name)))
    return rates


def speed(root: Path, loaded: bool, n_rounds: int) -> list[Row]:
    mapped, streamed = stream(root), stream(root, "streamed")
    verify(mapped)
    verify(streamed)
    urls = ActivationStore(root).shard_urls(0)
    contenders = {
        "gather in memory": Gather(mapped.stream(mapped.train_examples).n_tokens // 2).batches,
        "mapped": lambda: epoch(mapped, running=True),
        "webdataset rows": lambda: webdataset_rows(urls, 4 * BATCH),
        "row-wise reservoir": lambda: reservoir_rows(urls, BATCH),
        "streamed": lambda: epoch(streamed, running=True),
        "webdataset in order": lambda: webdataset_sequential(urls),
    }
    with contextlib.ExitStack() as work:
        for _ in range(os.cpu_count() or 1 if loaded else 0):
            work.callback(subprocess.Popen([sys.executable, "-c", BUSY]).kill)
        rates = rounds(contenders, n_rounds)
    goals = (
        ("mapped", "gather in memory", None if loaded else 0.5),
        ("mapped", "webdataset rows", None if loaded else 10),
        ("mapped", "row-wise reservoir", 8 if loaded else 25),
        ("streamed", "webdataset in order", None if loaded else 0.8),
    )
    found = []
    for ours, reference, goal in goals:
        ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[reference], strict=True))
        words = f"{ours} {statistics.median(rates[ours]):,.0f} tokens/s"
        other = f"{reference} {statistics.median(rates[reference]):,.0f}"
        found.append((words, other, ratio, "x at least", goal or 0.0, ratio >= (goal or 0)))
    return found


def mixing(n_images: int = 200_000, n_classes: int = 4000, batches: int = 40) -> list[Row]:
    """A class-sorted dataset larger than any disk here, by the plan's arithmetic alone, at the pool that is timed."""
    zeros = np.zeros(n_images, np.int64)
    spans = Spans(np.arange(n_images), zeros, zeros + TOKENS)
    plan, classes = EpochPlan(spans, BATCH, (POOL - 2 * BATCH) // 2), np.arange(n_images) * n_classes // n_images
    found_mates, entropy = [], []
    for window in range(0, plan.n_windows, plan.n_windows // 3):
        spans, edges = plan.window_plan(0, window)
        span, _ = positions(spans)
        example = spans.example[span][plan.permutation(0, window, 0, len(span))]
        for low, high in itertools.islice(itertools.pairwise(edges), batches // 3):
            batch = torch.from_numpy(example[low:high])
            found_mates.append(float(mates(batch)) + 1)
            entropy.append(float(batch_entropy(torch.from_numpy(classes[example[low:high]]))))
    sizes = torch.full((n_images,), TOKENS)
    perfect = expected_mates(sizes, BATCH) + 1, expected_entropy(torch.from_numpy(np.bincount(classes) * TOKENS), BATCH)
    m, e = statistics.mean(found_mates), statistics.mean(entropy)
    return [
        ("tokens of one's image in a batch, itself included", f"perfect {perfect[0]:.2f}", m, "at most", 2.6, m <= 2.6),
        ("class entropy, bits (class-sorted source)", f"perfect {perfect[1]:.2f}", e, "at least", 11.0, e >= 11.0),
    ]


def latency(root: Path) -> list[Row]:
    data = stream(root)
    start = time.perf_counter()
    batches = iter(data.train_dataloader())
    next(batches)
    first = time.perf_counter() - start
    start = time.perf_counter()
    batches.close()  # type: ignore[attr-defined]
    stop = time.perf_counter() - start
    return [
        ("first batch, s", "warm cache", first, "at most", 3.0, first <= 3),
        ("stop while a window is read, s", "", stop, "at most", 1.0, stop <= 1),
    ]


def memory(root: Path) -> list[Row]:
    """Peak memory of an epoch beyond what the process held before it, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(root)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    allowed = (min(POOL, ActivationStore(root).manifest.n_tokens) + 2 * BATCH) * 2048
    words = "memory beyond pool and two batches, MB"
    return [(words, f"pool and batches {allowed / 1e6:,.0f}", (peak - allowed) / 1e6, "at most", 0.0, peak <= allowed)]


def peak_memory(root: Path) -> int:
    data = stream(root)
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts anew
    for batch in epoch(data):
        batch["acts"].sum()
    return status("VmHWM") - before


def status(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="0.5 M tokens instead of 3 M: under a minute on 2 cores")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--loaded", action="store_true", help="speeds with every core busy with other work")
    parser.add_argument("--dir", type=Path, help="keep the dataset in this folder")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_memory(args.memory_of))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        n_images = 2048 if args.quick else 12288
        root = record((args.dir or Path(scratch)) / f"{n_images}", n_images)
        before = os.getloadavg()[0]
        found = speed(root, args.loaded, 3)
        found += [] if args.loaded else [*mixing(), *latency(root), *memory(root)]
    table = Table(
        "what", "beside", "value", "goal",
        title=f"{n_images * TOKENS / 1e6:.1f} M tokens x 1024 float16, batch {BATCH}, pool {POOL}, {os.cpu_count()} cores, "
        f"load before {before:.1f}{', all cores busy' if args.loaded else ''}",
    )  # fmt: skip
    for what, beside, value, kind, goal, reached in found:
        table.add_row(what, beside, f"{value:.2f}", f"{kind} {goal:g}", style=None if reached else "red")
    Console(width=140).print(table)
    return int(args.check and not all(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())

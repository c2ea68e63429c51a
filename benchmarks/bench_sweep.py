"""A sweep as one job beside a job for each SAE, and Lightning beside a bare loop: `python benchmarks/bench_sweep.py`.

Jobs are real commands (`train.py`), timed from start to end, imports, validation and export included; separate jobs run one
after the other, four of them standing for all. The stream-bound size reads from a web server on this machine that gives
10 MB/s, as a busy network disk does; the compute-bound one from memory. Peak memory is that of the process. `--quick` takes
fewer members and steps, `--check` exits with 1 where a goal is missed.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from slow_server import serve
from sweep_steps import BATCH, ROOT, TOKENS, bank_module, bare_steps, lightning_steps, peak_memory, record

from datamodules import ActivationDataModule

Row = tuple[str, str, str, float, str, float, bool]  # what, ours, beside, value, kind of goal, goal, reached


@dataclasses.dataclass(frozen=True)
class Size:
    """What is trained on what."""

    name: str
    d_model: int
    d_sae: int
    remote: bool  # read from the slow server
    goal: float  # most that 8 members may cost, in runs of one


SIZES = (Size("stream-bound", 256, 256, True, 2.0), Size("compute-bound", 256, 2048, False, 8.0))


class Run(NamedTuple):
    """What a command took."""

    seconds: float
    peak: int  # bytes


def train(dataset: str, members: range, size: Size, steps: int, out: Path) -> Run:
    """One job with a member per number, as a user would start it."""
    variants = ",".join(f'["k={4 + i}"]' for i in members)
    command = [
        sys.executable, "train.py", "experiment=none", f"dataset={dataset}", "layer=0", "sae=topk", f"variants=[{variants}]",
        f"d_sae={size.d_sae}", f"batch_size={BATCH}", f"n_tokens={steps * BATCH}", "val_every=100000", "logger=none",
        "report=false", "trainer=cpu", "datamodule.pool=65536", "datamodule.val_fraction=0.02", f"hydra.run.dir={out}",
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()
    return Run(time.perf_counter() - start, usage.ru_maxrss * 1024)


def sweeps(size: Size, numbers: list[int], steps: int, scratch: Path) -> Iterator[Row]:
    """Banks of each number of members, and as many jobs of one."""
    root = record(scratch / size.name, size.d_model, (steps * BATCH) // TOKENS + 8)
    with serve(root, 10e6) as url:
        dataset = url if size.remote else str(root)
        run = functools.partial(train, dataset, size=size, steps=steps)
        banks = {n: run(range(n), out=scratch / f"{size.name}-{n}") for n in numbers}
        alone = [run(range(i, i + 1), out=scratch / f"{size.name}-alone-{i}") for i in range(min(4, max(numbers)))]
    one = statistics.median(of.seconds for of in alone)
    for n, bank in banks.items():
        apart = f"{n} x {one:.1f} s"  # the median of those that were run
        yield (
            f"{size.name}, {n} members: time of {n} jobs",
            f"{bank.seconds:.1f} s",
            apart,
            n * one / bank.seconds,
            "x",
            0,
            True,
        )
        if n == 8:
            ratio = bank.seconds / one
            words = f"{size.name}, 8 members: cost of one"
            yield words, f"{bank.seconds:.1f} s", f"{one:.1f} s", ratio, "at most", size.goal, ratio <= size.goal


def memory(size: Size, n: int, scratch: Path) -> Row:
    """Peak memory of training steps per further member, each bank in a process of its own.

    The allocator is told to give back what is freed; else it keeps up to three times as much for later.
    """
    root = record(scratch / "memory", size.d_model, 4 * BATCH // TOKENS + 8)
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory-of", str(root), str(size.d_sae)]
    one, many = (int(subprocess.check_output([*command, str(i)], env=own, text=True).split()[-1]) for i in (1, n))
    grown, stays = (many - one) / (n - 1), 12 * (2 * size.d_model * size.d_sae + size.d_sae + size.d_model)
    words = f"{size.name}: peak memory per further member"
    ratio = grown / stays
    return (
        words,
        f"{grown / 1e6:.1f} MB",
        f"parameters and Adam {stays / 1e6:.1f} MB",
        ratio,
        "at most",
        1.2,
        ratio <= 1.2,
    )


def overhead(scratch: Path, d_model: int, d_sae: int, batch: int, steps: int, n_members: int, goal: float) -> Row:
    """Time of a step under Lightning with all default callbacks, beside a loop that does the same work and nothing else."""
    root = record(scratch / f"overhead-{d_model}-{n_members}", d_model, max(64, 2 * batch // TOKENS + 8))
    ours, bare = [], []
    for turn in range(4):
        for kind in (ours, bare)[:: 1 if turn % 2 == 0 else -1]:
            data = ActivationDataModule(str(root), 0, batch, val_fraction=0.01, pool=max(65536, 4 * batch))
            data.setup("fit")
            module = bank_module(data, d_sae, n_members)
            seconds = lightning_steps(module, data, steps, scratch) if kind is ours else bare_steps(module, data, steps)
            kind.append(seconds)
    a, b = (statistics.median(times[1:]) for times in (ours, bare))  # the first turn warms up
    words = (
        f"Lightning, {n_members} SAEs, d_model {d_model}, d_sae {d_sae}, batch {batch}: {1000 * (a - b):+.2f} ms/step"
    )
    return (
        words,
        f"{1000 * a:.2f} ms",
        f"bare loop {1000 * b:.2f} ms",
        a / b,
        "at most",
        goal,
        not goal or a / b <= goal,
    )


def main() -> int:
    from saev.config import schema

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, at most 2 members: under a minute on 2 cores")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--only", choices=["sweeps", "overhead", "memory"], help="one part")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_memory(args.memory_of[0], *map(int, args.memory_of[1:])))
        return 0
    schema.register()
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.only in (None, "overhead"):
            steps = 100 if args.quick else 400
            found += [overhead(scratch, 16, 64, 64, steps, n, 0) for n in (1, 8)]
            if not args.quick:
                found.append(overhead(scratch, 384, 1024, 16384, 8, 1, 1.05))
        if args.only in (None, "sweeps"):
            numbers, steps = ([1, 2], 20) if args.quick else ([1, 4, 8, 16], 100)
            for size in SIZES[:1] if args.quick else SIZES:
                found += sweeps(size, numbers, steps, scratch)
        if args.only in (None, "memory"):
            found.append(memory(SIZES[1], 2 if args.quick else 9, scratch))
    table = Table(
        "what", "ours", "beside", "value", "goal", title=f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for what, ours, beside, value, kind, goal, reached in found:
        table.add_row(
            what, ours, beside, f"{value:.2f}", f"{kind} {goal:g}" if goal else "", style=None if reached else "red"
        )
    Console(width=160).print(table)
    print(json.dumps([row[:4] for row in found]))
    return int(args.check and not all(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())

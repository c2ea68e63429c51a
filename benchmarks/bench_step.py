"""Whole training steps, with optimiser: `python benchmarks/bench_step.py [--quick] [--device cuda] [--check]`.

Ours, a plain dense step of the same architecture and other libraries' own steps (`uv sync --group peers`; those that are not
installed are left out) take turns on the same batch in one process; a row is the median of the ratios of a round. A step is
forward, loss, backward, constraints, clipping, Adam; in the rows "auxk" one latent in fifty is dead. On a CPU times are those of
the wall clock with all threads, or with `--cpu-seconds` the CPU time of one thread, which neighbours disturb least. `--check`
exits with 1 where a goal is missed.

On a GPU sizes are real ones, under bfloat16 autocast, with the products that a run chooses (the log says which), and ours is also
set beside a time in milliseconds that it must not exceed, and beside its floor: the encoder's product, the top k of
its result, and the bytes that parameters, gradients and Adam's moments move, at the bandwidth of a copy.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch allocates, as `saev` does: for all contenders

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.step_contenders import K, Options, contenders, data
from benchmarks.step_limits import parts_of_floor, profiled, seconds
from benchmarks.step_references import Step

CPU_SIZES = ((384, 3072, 2048), (1024, 8192, 1024))  # d_model, d_sae, batch
GPU_SIZES = ((384, 6144, 16384), (1024, 16384, 16384))
# (what, beside) -> goal: at least so many times as fast
GOALS = {
    ("topk", "dense"): 3.5,
    ("topk", "eai-sparsify"): 1.3,
    ("matryoshka", "dense"): 3.5,
    ("batchtopk", "our topk"): 1 / 1.15,
    ("relu", "dense"): 1.0,
    ("4 members", "4 x one"): 1 / 1.02,
}
# On a GPU, where steps are fused; `at most`: milliseconds by size.
AT_MOST = {1024: 2.1, 384: 0.8}
GPU_GOALS = {
    ("topk", "dense"): 7.0,
    ("batchtopk", "our topk"): 1 / 1.15,
    ("matryoshka", "our topk"): 1 / 1.3,
    ("jumprelu", "our topk"): 1 / 1.3,
    ("gated", "our topk"): 1 / 1.3,
    ("relu", "dense"): 1.4,
    ("auxk", "our topk"): 1 / 1.2,
    ("4 members", "4 x one"): 1 / 1.02,
}


def measured(steps: Mapping[str, Step], z: Tensor, options: Options) -> dict[str, list[float]]:
    """Seconds of each contender in each round; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds + 2):
        for name, step in steps.items():
            times[name].append(seconds(lambda step=step: step(z), options.device, options.cpu_seconds))
    return {name: spent[2:] for name, spent in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first size, ours and the dense steps, few rounds")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: real sizes, bfloat16, floors")
    parser.add_argument("--cpu-seconds", action="store_true", help="CPU time of one thread instead of the wall clock")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", help="one group of rows, e.g. '4 members'")
    parser.add_argument("--profile", action="store_true", help="also where the time of our TopK step goes")
    args = parser.parse_args()
    device = torch.device(args.device)
    gpu = device.type == "cuda"
    options = Options(device, torch.bfloat16 if gpu else None, args.cpu_seconds, 5 if args.quick else args.rounds)
    if args.cpu_seconds:
        torch.set_num_threads(1)
    missed, goals = 0, GPU_GOALS if gpu else GOALS
    for size in (GPU_SIZES if gpu else CPU_SIZES)[: 1 if args.quick else None]:
        where = torch.cuda.get_device_name(device) if gpu else f"{torch.get_num_threads()} CPU threads"
        title = f"d_model {size[0]}, d_sae {size[1]}, batch {size[2]}, k {K}; {where}, load {os.getloadavg()[0]:.1f}"
        table = Table("step", "beside", "ours ms", "theirs ms", "ours is faster by", "goal", title=title)
        z = data(size, device)
        for group, steps in contenders(size, options, peers=not args.quick).items():
            if args.only not in (None, group):
                continue
            times = measured(steps, z, options)
            for name, spent in list(times.items())[1:]:
                ratio = statistics.median(b / a for a, b in zip(times["ours"], spent, strict=True))
                missed += add_row(table, group, name, times["ours"], spent, ratio, goals.get((group, name)))
            if gpu and group == "topk":
                most = [1e-3 * AT_MOST[size[0]]]
                missed += add_row(
                    table, group, "at most", times["ours"], most, most[0] / statistics.median(times["ours"]), 1.0
                )
            if gpu and group == "topk":
                missed += add_floor(table, times["ours"], parts_of_floor(size[1], z, K, torch.bfloat16))
            if args.profile and group == "topk":
                print(profiled(steps["ours"], z))
        Console(width=120).print(table)
    return int(args.check and missed > 0)


def add_floor(table: Table, mine: list[float], parts: dict[str, float]) -> int:
    """1 where the step takes more than one and a half times what it must."""
    theirs = parts.pop("selection by torch.topk")
    add_row(table, "selection", "torch.topk", [parts["selection"]], [theirs], theirs / parts["selection"])
    for name, spent in parts.items():
        add_row(table, "topk", f"its floor's {name}", mine, [spent], spent / statistics.median(mine))
    least = sum(parts.values())
    return add_row(table, "topk", "its floor", mine, [least], least / statistics.median(mine), 1 / 1.5)


def add_row(
    table: Table, group: str, name: str, mine: list[float], theirs: list[float], ratio: float, goal: float | None = None
) -> int:
    """1 where the goal is missed."""
    short = goal is not None and ratio < goal
    a, b = (f"{1e3 * statistics.median(times):.2f}" for times in (mine, theirs))
    wanted = "" if goal is None else f"{goal:.2f}"
    table.add_row(group, name, a, b, f"{ratio:.2f} x", wanted, style="red" if short else None)
    return int(short)


if __name__ == "__main__":
    sys.exit(main())

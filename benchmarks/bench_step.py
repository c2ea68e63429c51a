"""Whole training steps, with optimiser: `python benchmarks/bench_step.py [--quick] [--device cuda] [--check]`.

Ours, a plain dense step of the same architecture and other libraries' own steps (`uv sync --group peers`; those that are not
installed are left out) take turns on the same batch in one process; a row is the median of the ratios of a round. A step is
forward, loss, backward, constraints, clipping, Adam. On a CPU times are those of the wall clock with all threads, or with
`--cpu-seconds` the CPU time of one thread, which neighbours disturb least. `--check` exits with 1 where a goal is missed.

On a GPU sizes are real ones, under bfloat16 autocast, and ours is also set beside its floor: the encoder's product, the top k of
its result, and the bytes that parameters, gradients and Adam's moments move, at the bandwidth of a copy.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch allocates, as `saev` does: for all contenders

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.step_peers import PEERS, Size
from benchmarks.step_references import Step, dense_batchtopk, dense_matryoshka, dense_relu, dense_topk
from saev.nn import AuxK, BatchTopK, Matryoshka, MemberSpec, Normaliser, Plain, ReLU, TopK
from saev.nn.activations import Activation
from saev.nn.bank import Member
from saev.ops.choice import faster_path
from saev.ops.topk import topk

K, L1 = 32, 1e-3
PREFIXES = Matryoshka(groups=[0.1] * 10)
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


class Options(NamedTuple):
    device: torch.device
    autocast: torch.dtype | None
    cpu_seconds: bool
    rounds: int


def ours(size: tuple[int, int, int], activation: Activation, options: Options, objective: object = None) -> Member:
    """A member from a sample of what is trained on; on a GPU with the faster products, as BankModule chooses them."""
    d_model, d_sae, batch = size
    spec = MemberSpec("ours", activation, objective or Plain(), AuxK(), 3e-4, d_sae=d_sae, b_dec="mean")  # type: ignore[arg-type]
    normaliser = Normaliser(torch.zeros(d_model), torch.ones(()))
    member = spec.build(normaliser, data(size, torch.device("cpu"))[:4096]).to(options.device)
    if options.device.type != "cpu" and hasattr(activation, "k"):
        member.products = faster_path(batch, d_model, d_sae, K, options.device, options.autocast).path
    return member


def stepped(members: list[Member], options: Options) -> Step:
    """As BankModule steps a bank."""
    optimisers = [torch.optim.Adam(member.sae.parameters(), lr=member.lr, fused=True) for member in members]

    def step(z: Tensor) -> None:
        for member, optimiser in zip(members, optimisers, strict=True):
            dtype = options.autocast or torch.bfloat16
            with torch.autocast(z.device.type, dtype, enabled=options.autocast is not None):
                losses = member(z)
            losses.loss.backward()
            member.condition_gradients(1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            member.finish_step(losses.l0)

    return step


def data(size: tuple[int, int, int], device: torch.device) -> Tensor:
    """Sparse mixtures of more directions than dimensions, with noise: about as hard as activations are."""
    d_model, _, batch = size
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(2 * d_model, d_model, generator=generator)
    codes = torch.rand(batch, 2 * d_model, generator=generator) * (
        torch.rand(batch, 2 * d_model, generator=generator) < 0.02
    )
    z = codes @ atoms + 0.1 * torch.randn(batch, d_model, generator=generator)
    return (z / z.std()).to(device)


def contenders(size: tuple[int, int, int], options: Options, peers: bool) -> dict[str, dict[str, Step]]:
    """Group -> name -> step; the first of a group is ours."""
    d_model, d_sae, _ = size
    top, batchtop = ours(size, TopK(K), options), ours(size, BatchTopK(K), options)
    nested, relu = ours(size, TopK(K), options, PREFIXES), ours(size, ReLU(L1), options)
    four = [ours(size, TopK(K), options) for _ in range(4)]
    found: dict[str, dict[str, Step]] = {
        "topk": {"ours": stepped([top], options), "dense": dense_topk(top, K, options.autocast)},
        "batchtopk": {
            "ours": stepped([batchtop], options),
            "our topk": stepped([ours(size, TopK(K), options)], options),
            "dense": dense_batchtopk(batchtop, K, options.autocast),
        },
        "matryoshka": {"ours": stepped([nested], options), "dense": dense_matryoshka(nested, K, options.autocast)},
        "relu": {"ours": stepped([relu], options), "dense": dense_relu(relu, L1, options.autocast)},
        "4 members": {"ours": stepped(four, options), "4 x one": stepped([ours(size, TopK(K), options)], options)},
    }
    for group, named in PEERS.items() if peers else ():
        for name, make in named.items():
            try:
                step = make(Size(d_model, d_sae, K, device=str(options.device))).step
            except ImportError:
                continue
            found["relu" if group == "relu_l1" else group][name] = step
    return found


def seconds(work: Callable[[], object], options: Options) -> float:
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    if options.device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if options.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measured(steps: Mapping[str, Step], z: Tensor, options: Options) -> dict[str, list[float]]:
    """Seconds of each contender in each round; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds + 2):
        for name, step in steps.items():
            times[name].append(seconds(lambda step=step: step(z), options))
    return {name: spent[2:] for name, spent in times.items()}


def floor(size: tuple[int, int, int], z: Tensor, options: Options) -> float:
    """Seconds that no step with this encoder can do without."""
    d_model, d_sae, _ = size
    w, dtype = torch.randn(d_sae, d_model, device=z.device), options.autocast or torch.float32
    low, a = w.to(dtype), z.to(dtype)
    h = a @ low.T
    once = torch.empty_like(w)
    parts = [lambda: a @ low.T, lambda: topk(h, K), lambda: once.copy_(w)]
    product, selection, copy = (statistics.median(seconds(part, options) for _ in range(20)) for part in parts)
    # A copy reads and writes a weight matrix; a step reads weights twice, gradients, moments, and writes all but one.
    moved = 2 * (2 + 1 + 2 + 4) / 2
    return product + selection + moved * copy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first size, ours and the dense steps, few rounds")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: real sizes, bfloat16, floors")
    parser.add_argument("--cpu-seconds", action="store_true", help="CPU time of one thread instead of the wall clock")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    device = torch.device(args.device)
    gpu = device.type == "cuda"
    options = Options(device, torch.bfloat16 if gpu else None, args.cpu_seconds, 5 if args.quick else args.rounds)
    if args.cpu_seconds:
        torch.set_num_threads(1)
    missed = 0
    for size in (GPU_SIZES if gpu else CPU_SIZES)[: 1 if args.quick else None]:
        where = torch.cuda.get_device_name(device) if gpu else f"{torch.get_num_threads()} CPU threads"
        title = f"d_model {size[0]}, d_sae {size[1]}, batch {size[2]}, k {K}; {where}, load {os.getloadavg()[0]:.1f}"
        table = Table("step", "beside", "ours ms", "theirs ms", "ours is faster by", "goal", title=title)
        z = data(size, device)
        for group, steps in contenders(size, options, peers=not args.quick).items():
            times = measured(steps, z, options)
            for name, spent in list(times.items())[1:]:
                scale = 4 if name == "4 x one" else 1
                ratio = statistics.median(scale * b / a for a, b in zip(times["ours"], spent, strict=True))
                missed += add_row(table, group, name, times["ours"], [scale * s for s in spent], ratio)
            if gpu and group == "topk":
                least = floor(size, z, options)
                missed += add_row(
                    table, group, "its floor", times["ours"], [least], least / statistics.median(times["ours"]), 1 / 1.5
                )
        Console(width=120).print(table)
    return int(args.check and missed > 0)


def add_row(
    table: Table, group: str, name: str, mine: list[float], theirs: list[float], ratio: float, goal: float | None = None
) -> int:
    """1 where the goal is missed."""
    goal = GOALS.get((group, name), goal)
    short = goal is not None and ratio < goal
    a, b = (f"{1e3 * statistics.median(times):.1f}" for times in (mine, theirs))
    wanted = "" if goal is None else f"{goal:.2f}"
    table.add_row(group, name, a, b, f"{ratio:.2f} x", wanted, style="red" if short else None)
    return int(short)


if __name__ == "__main__":
    sys.exit(main())

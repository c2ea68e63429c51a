"""What limits a training step: the least that it must do, and where its time goes."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.step_references import Step
from saev.ops.topk import topk


def seconds(work: Callable[[], object], device: torch.device, cpu_seconds: bool = False) -> float:
    """Of one call, all that it queued on a GPU included: of the wall clock, or of this process on a CPU."""
    clock = time.process_time if cpu_seconds else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def parts_of_floor(d_sae: int, z: Tensor, k: int, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of what no step with this encoder can do without, and of the selection by torch.topk, which it can."""
    w = torch.randn(d_sae, z.shape[1], device=z.device)
    low, a, once = w.to(dtype), z.to(dtype), torch.empty_like(w)
    h = a @ low.T
    # A copy reads and writes a weight matrix; a step reads weights twice, gradients, moments, and writes all but one.
    moved = 2 * (2 + 1 + 2 + 4) / 2
    work = {
        "product": lambda: a @ low.T,
        "selection": lambda: topk(h, k),
        "selection by torch.topk": lambda: h.topk(k, dim=1, sorted=False),
        "bytes": lambda: once.copy_(w),
    }
    median = {name: statistics.median(seconds(part, z.device) for _ in range(20)) for name, part in work.items()}
    return median | {"bytes": moved * median["bytes"]}


def profiled(step: Step, z: Tensor, n_steps: int = 5, rows: int = 20) -> str:
    """The operations of some steps by the time they take themselves: a table; all of them where `rows` is -1."""
    step(z)
    gpu = z.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu) as found:
        for _ in range(n_steps):
            step(z)
    return found.key_averages().table(sort_by=f"self_{z.device.type}_time_total", row_limit=rows)

"""Whether this machine's GPU runs our kernels correctly: tested once, on a small case, before the first use."""

import functools
import importlib.util
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)


def kernels(device: torch.device) -> bool:
    """Whether to use `gpu_sums` and `gpu_topk`: True on a GPU where Triton is installed and their results are correct.

    The first call for a device compiles kernels and synchronises.
    """
    return device.type == "cuda" and _tested(device)


@functools.cache
def _tested(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None:
        log.warning("our kernels are off on %s, torch's operations are used: Triton is not installed.", device)
        return False
    log.info("compiling and testing kernels on %s: some seconds, the first time on a machine", device)
    try:
        fault = check(device)
    except Exception:  # of a driver, a compiler, an architecture: torch's operations still work
        log.warning("our kernels are off on %s, torch's operations are used:", device, exc_info=True)
        return False
    if fault is not None:
        log.warning("our kernels are off on %s, torch's operations are used: the %s are wrong.", device, fault)
    return fault is None


def check(device: torch.device, widths: Sequence[int] = (300, 16384, 40000)) -> str | None:
    """The first kernel result that differs from a sort and dense products on the CPU; None where all agree.

    Tests a few rows of each width: kernels are compiled per power of two, and differently for large ones.
    """
    from saev.ops import gpu_sums, gpu_topk  # imports Triton, which not every machine has

    rows, width, k = 4, 160, 9
    generator = torch.Generator().manual_seed(0)
    for d_sae in widths:
        h = torch.randn(rows, d_sae, generator=generator)
        h[0], h[1, ::2], h[1, 5] = 1.0, -1.0, torch.nan
        table, left = (torch.randn(n, width, generator=generator) for n in (d_sae, rows))
        for dtype in (torch.float32, torch.bfloat16):
            h, table = h.to(dtype), table.to(dtype)
            order = h.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values  # among equals the first
            expected = (order + d_sae * torch.arange(rows)[:, None]).flatten()
            values, indices = gpu_topk.topk(h.to(device), k)
            if not (torch.equal(indices.cpu(), expected) and _near(values.cpu(), h.flatten()[expected])):
                return f"largest of {d_sae} in {dtype}"
            offsets, weights = torch.arange(0, rows * k + 1, k, device=device), values.nan_to_num()
            f = torch.zeros(rows * d_sae, dtype=torch.float64)
            f[expected] = weights.cpu().double()
            for many in (False, True):
                sums = gpu_sums.weighted_sum(table.to(device), indices % d_sae, offsets, weights, many)
                if not _near(sums.cpu(), f.view(rows, d_sae) @ table.double()):
                    return f"weighted sums of {dtype}"
            products = gpu_sums.products(left.to(device), table.to(device), indices % d_sae, offsets)
            if not _near(products.cpu(), (left.double() @ table.double().T).flatten()[expected]):
                return f"products of {dtype}"
    return None


def _near(actual: Float[Tensor, "..."], expected: Float[Tensor, "..."]) -> bool:
    return torch.allclose(actual.double(), expected.double(), rtol=1e-4, atol=1e-4, equal_nan=True)

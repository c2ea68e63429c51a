"""Whether this machine's GPU runs our kernels: tried once, on a small case, before anything relies on them."""

import functools
import importlib.util
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

log = logging.getLogger(__name__)


def kernels(device: torch.device) -> bool:
    """Whether `gpu_sums` and `gpu_topk` are to be used: on a GPU, where Triton is installed and they compute what they should.

    Waits for the GPU, and for a compiler, the first time that it is asked about one.
    """
    return device.type == "cuda" and _tried(device)


@functools.cache
def _tried(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None:
        log.warning("no kernels of our own on %s, torch's in their place: Triton is not installed.", device)
        return False
    log.info("compiling and checking kernels on %s: some seconds, the first time on a machine", device)
    try:
        fault = check(device)
    except Exception:  # a driver, a compiler, an architecture: whatever it is, torch's own operations still work
        log.warning("no kernels of our own on %s, torch's in their place:", device, exc_info=True)
        return False
    if fault is not None:
        log.warning("no kernels of our own on %s, torch's in their place: the %s are wrong.", device, fault)
    return fault is None


def check(device: torch.device, widths: Sequence[int] = (300, 16384, 40000)) -> str | None:
    """What the kernels get wrong, compared with a sort and dense products on the CPU; None where nothing.

    On a few rows of each of the widths: kernels are compiled anew for each power of two, and differently for the larger ones.
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
            order = h.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values  # of equals the first
            wanted = (order + d_sae * torch.arange(rows)[:, None]).flatten()
            values, places = gpu_topk.topk(h.to(device), k)
            if not (torch.equal(places.cpu(), wanted) and _near(values.cpu(), h.flatten()[wanted])):
                return f"largest of {d_sae} in {dtype}"
            offsets, weights = torch.arange(0, rows * k + 1, k, device=device), values.nan_to_num()
            f = torch.zeros(rows * d_sae, dtype=torch.float64)
            f[wanted] = weights.cpu().double()
            for many in (False, True):
                sums = gpu_sums.weighted_sum(table.to(device), places % d_sae, offsets, weights, many)
                if not _near(sums.cpu(), f.view(rows, d_sae) @ table.double()):
                    return f"weighted sums of {dtype}"
            products = gpu_sums.products(left.to(device), table.to(device), places % d_sae, offsets)
            if not _near(products.cpu(), (left.double() @ table.double().T).flatten()[wanted]):
                return f"products of {dtype}"
    return None


def _near(found: Float[Tensor, "..."], wanted: Float[Tensor, "..."]) -> bool:
    return torch.allclose(found.double(), wanted.double(), rtol=1e-4, atol=1e-4, equal_nan=True)

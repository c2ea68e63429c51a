"""Whether this machine's GPU runs our kernels: tried once, on a small case, before anything relies on them."""

import functools
import importlib.util
import logging

import torch

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
    try:
        fault = check(device)
    except Exception:  # a driver, a compiler, an architecture: whatever it is, torch's own operations still work
        log.warning("no kernels of our own on %s, torch's in their place:", device, exc_info=True)
        return False
    if fault is not None:
        log.warning("no kernels of our own on %s, torch's in their place: the %s are wrong.", device, fault)
    return fault is None


def check(device: torch.device) -> str | None:
    """What the kernels get wrong on a small case, compared with dense products and a sort on the CPU; None where nothing."""
    from saev.ops import gpu_sums, gpu_topk  # imports Triton, which not every machine has

    rows, d_sae, width, k = 8, 300, 160, 9
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(rows, d_sae, generator=generator)
    table, left = (torch.randn(n, width, generator=generator) for n in (d_sae, rows))
    for dtype in (torch.float32, torch.bfloat16):
        h, table, left = (x.to(dtype) for x in (h, table, left))
        order = h.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(1).values  # of equals the first
        wanted = (order + d_sae * torch.arange(rows)[:, None]).flatten()
        values, places = gpu_topk.topk(h.to(device), k)
        if not (torch.equal(places.cpu(), wanted) and torch.equal(values.cpu(), h.flatten()[wanted])):
            return f"largest of {dtype}"
        offsets = torch.arange(0, rows * k + 1, k, device=device)
        f = torch.zeros(rows * d_sae, dtype=torch.float64)
        f[wanted] = values.cpu().double()
        sums = gpu_sums.weighted_sum(table.to(device), places % d_sae, offsets, values)
        if not torch.allclose(sums.cpu().double(), f.view(rows, d_sae) @ table.double(), rtol=1e-4, atol=1e-4):
            return f"weighted sums of {dtype}"
        products = gpu_sums.products(left.to(device), table.to(device), places % d_sae, offsets)
        dense = (left.double() @ table.double().T).flatten()[wanted]
        if not torch.allclose(products.cpu().double(), dense, rtol=1e-4, atol=1e-4):
            return f"products of {dtype}"
    return None

"""Codes and labels that probes are tested on."""

import numpy as np
import torch
from torch import Tensor

from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import LabelTable

N, LATENTS, CLASSES = 500, 8, 4


def codes(half: bool = False) -> Tensor:
    """Latents 0-2 sparse, 3 dense and signed, 4 signed and sparse, 5 dead, 6 of few values, 7 never 0 and positive."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, LATENTS)).astype(np.float32)
    x[:, :3] = np.where(x[:, :3] > [0.3, 1.0, 1.8], x[:, :3], 0)
    x[:, 4] = np.where(np.abs(x[:, 4]) > 1, x[:, 4], 0)
    x[:, 5] = 0
    x[:, 6] = np.round(x[:, 6])
    x[:, 7] = np.exp(x[:, 7])
    return torch.from_numpy(x.astype(np.float16).astype(np.float32) if half else x)


def labels() -> Tensor:
    """Classes 0 to 2, of which 0 is rare; none of class 3; every eighth token void."""
    found = torch.from_numpy(np.random.default_rng(1).choice(3, size=N, p=[0.02, 0.4, 0.58]))
    found[::8] = -1
    return found


def many_labels() -> Tensor:
    """Any number of classes per token, often none; none of class 3."""
    hit = np.random.default_rng(2).random((N, CLASSES)) < [0.1, 0.5, 0.9, 0.0]
    hit[::5] = False
    return torch.from_numpy(hit)


def table(x: Tensor, y: Tensor, mantissa_bits: int = 23, counted: Tensor | None = None) -> LabelTable:
    classes = CLASSES if y.ndim == 1 else y.shape[1]
    stats = LatentLabelStats(x.shape[1], classes, mantissa_bits)
    stats.update(x, y, counted)
    return stats.compute()


def equal(found: LabelTable, expected: LabelTable, exact: bool = False) -> None:
    """Integers equal; floats to 1e-12 of what was summed, unless exact."""
    for name in ("n_tokens", "n_latents", "mantissa_bits"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("positives", "latent", "key", "count", "group", "label", "joint"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("total", "squares", "p1"):
        rtol, atol = (0.0, 0.0) if exact else (1e-12, 1e-12)
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=rtol, atol=atol)

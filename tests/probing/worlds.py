"""Codes of every kind, and classes that some of them tell, for probes of all pairs."""

import numpy as np
import torch

N = 4000


def world(seed=0, n=N):
    """Codes x [n, L] by name, and labels y [n, C] that some of them say something about."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    y = {
        "common": hidden + rng.normal(size=n) > 0.3,
        "rare": np.isin(np.arange(n), np.argsort(hidden + 0.5 * rng.normal(size=n))[-5:]),
        "unrelated": rng.random(n) < 0.05,
        "top": np.isin(np.arange(n), np.argsort(hidden)[-n // 50 :]),
    }
    fires = rng.random(n) < 1 / (1 + np.exp(3 - 2 * hidden))
    sparse = np.where(fires, np.exp(0.7 * hidden + 0.7 * rng.normal(size=n)), 0)
    x = {
        "sparse": sparse,
        "small": sparse * 1e-6,
        "large": sparse * 1e6,
        "seldom": np.where(rng.random(n) < 0.004, sparse + 0.1, 0),
        "signed": sparse - np.where(rng.random(n) < 0.1, np.exp(rng.normal(size=n)), 0),
        "dense": hidden + rng.normal(size=n),
        "far": 100 + hidden + 0.5 * rng.normal(size=n),
        "modes": np.where(hidden > 1, 50, 1) + 0.3 * rng.normal(size=n) + 0.3 * hidden,
        "tied": np.round(sparse),
        "separating": hidden,
        "one value": fires * 2.5,
        "dead": np.zeros(n),
        "constant": np.full(n, 3.0),
    }
    codes = torch.from_numpy(np.stack(list(x.values()), 1)).float().double()
    return dict(zip(x, codes.T, strict=True)), codes, torch.from_numpy(np.stack(list(y.values()), 1)), list(y)

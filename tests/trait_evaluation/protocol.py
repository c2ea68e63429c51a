"""The whole protocol in a few lines of NumPy, slow and exact: what saev/trait_evaluation must equal."""

import numpy as np
from sklearn.metrics import average_precision_score

from saev.metrics.ranking import average_precision
from saev.trait_evaluation.grid import Grid


def reference(train, test, train_labels, test_labels, grid: Grid, compat: bool = False):
    """{(seed, n_train, n_prototypes, trait): (prototype, training AP, test AP)}; prototype -1 without a training positive."""
    ap = (lambda y, s: average_precision_score(y, s)) if compat else (lambda y, s: average_precision(s, y))
    out = {}
    for seed in grid.seeds:
        prototypes, units = (
            grid.order(seed, n, what) for n, what in ((train.shape[1], "prototypes"), (len(train), "units"))
        )
        for n in grid.n_train:
            for k in grid.n_prototypes:
                candidates = np.sort(prototypes[:k]) if compat else prototypes[:k]
                for t in range(train_labels.shape[1]):
                    rows = np.array([u for u in units[:n] if train_labels[u, t] >= 0], int)
                    on_test = np.flatnonzero(test_labels[:, t] >= 0)
                    y, z = train_labels[rows, t] == 1, test_labels[on_test, t] == 1
                    if not y.any():
                        best, value = (candidates[0], 0.0) if compat else (-1, np.nan)
                    else:
                        aps = [ap(y, train[rows, p]) for p in candidates]
                        best, value = candidates[int(np.argmax(np.round(aps, 12)))], max(aps)
                    result = np.nan if best < 0 or not z.any() else ap(z, test[on_test, best])
                    out[seed, n, k, t] = best, value, np.nan_to_num(result) if compat else result
    return out


def scores(units: int, prototypes: int, density: float, seed: int, levels: int = 6) -> np.ndarray:
    """Scores with many ties: multiples of 1 / levels, most of them 0; prototype 4 is silent."""
    rng = np.random.default_rng(seed)
    values = np.ceil(rng.random((units, prototypes)) * levels) / levels * (rng.random((units, prototypes)) < density)
    values[:, 4] = 0
    return values.astype(np.float32)


def labels(units: int, traits: int, seed: int, unknown: float = 0.2) -> np.ndarray:
    """Traits of a fifth of the units, of some of which it is not known; trait 1 is of none."""
    rng = np.random.default_rng(seed)
    values = rng.choice([0, 1, -1], (units, traits), p=[0.8 - unknown, 0.2, unknown]).astype(np.int8)
    values[:, 1] = 0
    return values

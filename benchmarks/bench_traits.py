"""The grid of `saev traits`: `python benchmarks/bench_traits.py [--quick] [--check]`.

On synthetic codes (firing frequencies over images log-uniform from 0.1 to 30 %, gamma values, traits of 1 to 40 % of the images, a
fifth of the labels unknown): (1) choosing among all prototypes in every cell of the grid, seconds and memory; (2) one cell beside
scikit-learn's average_precision_score, pair by pair, on a sample of pairs; (3) 95 % intervals of the chosen pairs. `--quick` has an
eighth of the prototypes. `--check` exits with 1 where a goal is missed. The time per pair of (2) is that of pairs of one cell.
"""

import argparse
import resource
import time

import numpy as np
from goals import print_goals
from scipy.sparse import csc_matrix
from sklearn.metrics import average_precision_score

from saev.metrics.resampling import draws
from saev.trait_evaluation.grid import Grid, choose
from saev.trait_evaluation.intervals import ResampledUnits, resample

TRAIN, TEST, TRAITS = 5994, 5794, 312
N_TRAIN, N_PROTOTYPES, SEEDS = (16, 64, 256, 1024, 4096), (128, 512, 2048, 8192), (0, 1, 2)
SAMPLE = 2000  # pairs by scikit-learn


def codes(units: int, prototypes: int, rng: np.random.Generator) -> csc_matrix:
    """Pooled codes of units by prototypes."""
    frequency = np.exp(rng.uniform(np.log(1e-3), np.log(0.3), prototypes))
    counts = rng.binomial(units, frequency)
    rows = np.concatenate([np.sort(rng.choice(units, n, replace=False)) for n in counts])
    values = rng.gamma(2, size=len(rows)).astype(np.float32)
    return csc_matrix((values, rows, np.concatenate([[0], np.cumsum(counts)])), shape=(units, prototypes))


def traits(units: int, rng: np.random.Generator) -> np.ndarray:
    """Labels of units: 1, 0, and -1 for a fifth."""
    prevalence = np.exp(rng.uniform(np.log(0.01), np.log(0.4), TRAITS))
    labels = (rng.random((units, TRAITS)) < prevalence).astype(np.int8)
    labels[rng.random(labels.shape) < 0.2] = -1
    return labels


def by_scikit_learn(scores: csc_matrix, labels: np.ndarray, rng: np.random.Generator) -> float:
    """Seconds per pair."""
    pairs = np.stack([rng.integers(scores.shape[1], size=SAMPLE), rng.integers(TRAITS, size=SAMPLE)], 1)
    columns = [scores[:, [p]].toarray().ravel() for p in pairs[:, 0]]
    start = time.perf_counter()
    for column, (_, trait) in zip(columns, pairs, strict=True):
        known = labels[:, trait] >= 0
        average_precision_score(labels[known, trait] == 1, column[known])
    return (time.perf_counter() - start) / SAMPLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the prototypes")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    n = 4096 if options.quick else 32768
    rng = np.random.default_rng(0)
    train, test = codes(TRAIN, n, rng), codes(TEST, n, rng)
    train_labels, test_labels = traits(TRAIN, rng), traits(TEST, rng)

    start = time.perf_counter()
    grid = Grid.of(N_PROTOTYPES, N_TRAIN, SEEDS, n, TRAIN)
    choices = choose(train, test, train_labels, test_labels, grid)
    whole = time.perf_counter() - start
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    reference = by_scikit_learn(train, train_labels, rng)
    start = time.perf_counter()
    choose(train, test, train_labels, test_labels, Grid.of([], [], [0], n, TRAIN))
    ours = (time.perf_counter() - start) / (2 * n * TRAITS)  # of both sides

    pairs = {(int(p), t) for t in range(TRAITS) for p in np.unique(choices.prototype[..., t]) if p >= 0}
    start = time.perf_counter()
    resample(test, ResampledUnits(test_labels, np.arange(TEST), draws(TEST, 1000, 0)), choices)
    intervals = time.perf_counter() - start

    goal = 600 * n / 32768
    rows = [
        (
            f"{n} prototypes, {TRAIN} + {TEST} images, {TRAITS} traits, 6 n_train, 3 seeds",
            f"{whole:.0f} s",
            f"{goal:.0f} s",
            whole < goal,
        ),
        ("memory", f"{gib:.2f} GiB", "4 GiB", gib < 4),
        ("one pair by scikit-learn / ours", f"{reference / ours:.0f} x", "200 x", reference / ours > 200),
        (f"intervals of {len(pairs)} chosen pairs, 1000 resamples", f"{intervals:.0f} s", "", True),
    ]
    print_goals(rows, options.check)


if __name__ == "__main__":
    main()

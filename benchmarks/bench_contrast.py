"""The statistics of `saev contrast`: `python benchmarks/bench_contrast.py [--quick] [--check]`.

On synthetic pooled codes (firing frequencies over images log-uniform from 0.1 to 30 %, gamma values) of 16,384 latents and 3,000
images: (1) 20 pairs of two groups of 150 to 300 images, (2) 20 pairs of which each has all images, both with 1,000 permutations and
1,000 resamples, seconds and memory; (3) per (latent, pair) beside scipy's and scikit-learn's calls on a sample of the pairs of (1):
mannwhitneyu, roc_auc_score, average_precision_score of both groups, permutation_test and bootstrap, vectorised, with as many
permutations and resamples; (4) beside these, for one pair of (1), classifiers with nested folds, and partners of 200 latents in another
dictionary. `--quick` has an eighth of the latents. `--check` exits with 1 where a goal is missed.
"""

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np
from bench_traits import codes
from goals import print_goals
from scipy.sparse import csc_matrix
from scipy.stats import bootstrap, mannwhitneyu, permutation_test, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from saev.contrasts.classifier import classify
from saev.contrasts.partners import partners
from saev.contrasts.sides import Sides
from saev.contrasts.statistics import pair_statistics

IMAGES, PAIRS, DRAWS = 3000, 20, 1000
SAMPLE = 30  # (latent, pair)s by scipy and scikit-learn


def pairs(of_group: Sequence[int], rng: np.random.Generator) -> list[Sides]:
    """Pairs of groups of random images, of numbers from a range."""
    out = []
    for number in range(PAIRS):
        n = rng.integers(*of_group, size=2, endpoint=True)
        rows = rng.permutation(IMAGES)[: n.sum()]
        out.append(Sides(str(number), rows[: n[0]], rows[n[0] :], np.arange(len(rows)), np.zeros(len(rows), np.int64)))
    return out


def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return a.mean(axis) - b.mean(axis)


def by_scipy(scores: csc_matrix, sides: Sequence[Sides], rng: np.random.Generator) -> float:
    """Seconds per (latent, pair)."""
    columns = [scores[:, [j]].toarray().ravel() for j in rng.integers(scores.shape[1], size=SAMPLE)]
    start = time.perf_counter()
    for column, number in zip(columns, rng.integers(len(sides), size=SAMPLE), strict=True):
        one = sides[number]
        a, b, both = column[one.a], column[one.b], column[one.rows]
        mannwhitneyu(a, b, method="asymptotic")
        roc_auc_score(one.is_a, both)
        average_precision_score(one.is_a, both)
        average_precision_score(~one.is_a, both)
        ranks = rankdata(both)
        permutation_test(
            (ranks[: len(a)], ranks[len(a) :]), difference, vectorized=True, n_resamples=DRAWS, batch=DRAWS
        )
        bootstrap((a, b), difference, vectorized=True, n_resamples=DRAWS, method="percentile")
    return (time.perf_counter() - start) / SAMPLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the latents")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    n = 2048 if options.quick else 16384
    rng = np.random.default_rng(0)
    scores = codes(IMAGES, n, rng)
    goal = 30 if options.quick else 120  # drawing permutations and resamples takes as long for few latents
    small, rows = pairs((150, 300), rng), []
    seconds = []
    for what, sides in (("150 to 300 images a group", small), ("1,500 images a group", pairs((1500, 1500), rng))):
        start = time.perf_counter()
        pair_statistics(scores, sides, n_permutations=DRAWS, bootstrap=DRAWS)
        seconds.append(time.perf_counter() - start)
        text = f"{n} latents, {PAIRS} pairs, {what}, {DRAWS} permutations, {DRAWS} resamples"
        rows.append((text, f"{seconds[-1]:.0f} s", f"{goal} s", seconds[-1] < goal))
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ratio = by_scipy(scores, small, rng) / (seconds[0] / n / PAIRS)
    start = time.perf_counter()
    classify(scores, None, small[0])
    classified = time.perf_counter() - start
    other = codes(IMAGES, n, rng)
    start = time.perf_counter()
    partners(scores, np.arange(200), other)
    matched = time.perf_counter() - start
    rows += [
        ("memory", f"{gib:.2f} GiB", "4 GiB", gib < 4),
        ("a (latent, pair) by scipy and scikit-learn / ours", f"{ratio:.0f} x", "100 x", ratio > 100),
        (
            "the L1 classifiers of one pair, with nested folds, and again with permuted groups",
            f"{classified:.1f} s",
            "",
            True,
        ),
        (f"partners of 200 latents among {n} of another dictionary", f"{matched:.1f} s", "", True),
    ]
    print_goals(rows, options.check)


if __name__ == "__main__":
    main()

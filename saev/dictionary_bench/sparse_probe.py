"""k-sparse probes: accuracy of logistic regressions on the k latents that best separate the classes, over a range of k."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from scipy.integrate import trapezoid

from saev.dictionary_bench.class_statistics import (
    SEED,
    TEST_FRACTION,
    descending,
    f_statistics,
    labelled,
    logistic_regression,
    resampled_mean,
    resampled_rows,
    split,
)
from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured

K = (1, 5, 10, 20, 50, 100)
MAX_ITER = 500
RankedOn = Literal["train", "all"]


def sparse_probe(
    codes: ImageCodes,
    labels: Int[np.ndarray, " images"],
    draws: Int64[np.ndarray, "images n"] | None = None,
    k: Sequence[int] = K,
    ranked_on: RankedOn = "train",
    test_fraction: float = TEST_FRACTION,
    seed: int = SEED,
    permutations: int = 20,
    null_seed: int = 0,
) -> Measured:
    """The area under the test accuracy over k, divided by the range of k: the trapezoid rule on max-pooled codes. `n`: test images.

    Latents are ranked by the F statistic of their codes over the training images; `ranked_on="all"` is ViSAEBench's, which
    ranks on the test images too, so that its accuracy of latents without any relation to the classes is above chance.
    Null: the classes permuted among the images, ranked and fitted again, mean of `permutations` (seed
    `null_seed`). `draws` resample the test images; the probes stay.
    details: `accuracies` {k: accuracy}, `null_accuracies` (means), and `chosen`, the latents by rank, of the largest k.
    """
    rows, classes = labelled(labels, "a k-sparse probe")
    k = [n for n in sorted(k) if n <= codes.n_latents] or [codes.n_latents]
    correct, test, chosen = _correct(codes, rows, classes, k, ranked_on, test_fraction, seed)
    details = {"accuracies": _by_k(k, correct), "chosen": chosen}
    rng, nulls = np.random.default_rng(null_seed), np.zeros((len(k), 0))
    if permutations:
        by_chance = (
            _correct(codes, rows, rng.permutation(classes), k, ranked_on, test_fraction, seed)[0].mean(1)
            for _ in range(permutations)
        )
        nulls = np.stack([*by_chance], 1)
        details["null_accuracies"] = _by_k(k, nulls)
    resampled = area(k, resampled_mean(correct.astype(np.float64), resampled_rows(draws, rows[test])))
    units = area(k, correct.astype(np.float64))
    value, nulls = float(area(k, correct.mean(1)[:, None])[0]), area(k, nulls)
    null = float(nulls.mean()) if permutations else float("nan")
    return Measured(value, null, len(test), resampled, nulls=nulls, details=details, units=units)


def _by_k(k: Sequence[int], correct: Bool[np.ndarray, "ks test"] | Float64[np.ndarray, "ks n"]) -> dict[int, float]:
    return dict(zip(k, correct.mean(1).tolist(), strict=True))


def area(k: Sequence[int], accuracies: Float64[np.ndarray, "ks n"]) -> Float64[np.ndarray, " n"]:
    """The mean of the accuracy over the range of k, linear between; of a single k, its accuracy.

    >>> area([1, 3], np.array([[0.5], [1.0]]))
    array([0.75])
    """
    if len(k) == 1:
        return accuracies[0]
    return trapezoid(accuracies, x=k, axis=0) / (k[-1] - k[0])


def _correct(
    codes: ImageCodes,
    rows: Int64[np.ndarray, " rows"],
    classes: Int64[np.ndarray, " rows"],
    k: Sequence[int],
    ranked_on: RankedOn,
    test_fraction: float,
    seed: int,
) -> tuple[Bool[np.ndarray, "ks test"], Int64[np.ndarray, " test"], Int64[np.ndarray, " chosen"]]:
    """Whether each test image is classified correctly with k latents; the test rows; the latents by rank."""
    train, test = split(classes, test_fraction, seed)
    pooled = codes.pooled[rows]
    ranked = train if ranked_on == "train" else np.arange(len(rows))
    best = descending(f_statistics(pooled[ranked], classes[ranked]), k[-1])
    x = pooled[:, best].toarray().astype(np.float32)
    correct = []
    for n in k:
        model = logistic_regression(x[train, :n], classes[train], MAX_ITER, seed)
        correct.append(model.predict(x[test, :n]) == classes[test])
    return np.stack(correct), test, best

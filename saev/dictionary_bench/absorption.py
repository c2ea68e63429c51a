"""Absorption along a hierarchy: whether a class is represented by the latents of its siblings, as ViSAEBench defines it.

A class of a group of siblings is absorbed where the 10 latents with the largest mean code on its images are mostly those of the
whole group (Jaccard index above 0.5), or where 4 latents tell the class from its siblings better than one (F1 higher by over 0.1).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy.sparse import csr_matrix

from saev.dictionary_bench.class_statistics import (
    SEED,
    TEST_FRACTION,
    descending,
    f_statistics_of_each_class,
    logistic_regression,
    split,
)
from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured

MIN_SIBLINGS, MIN_GROUP, MIN_SIDE = 3, 10, 3  # classes of a group, its images, images of the class and of its siblings
TOP, OVERLAP, GAP = 10, 0.5, 0.1
FEW, MANY = 1, 4
MAX_ITER = 500
JudgedOn = Literal["test", "train"]


class Tested(NamedTuple):
    """One class among its siblings: the Jaccard index of the top latents, and F1 with 1 and with 4 latents; each also in the resamples."""

    group: str
    label: int
    overlap: Float64[np.ndarray, " n_and_1"]  # first of all images, then of each resample
    few: Float64[np.ndarray, " n_and_1"]
    many: Float64[np.ndarray, " n_and_1"]

    @property
    def absorbed(self) -> Bool[np.ndarray, " n_and_1"]:
        """Whether the class counts as absorbed."""
        return (self.overlap > OVERLAP) | (self.many - self.few > GAP)


def absorption(
    codes: ImageCodes,
    labels: Int[np.ndarray, " images"],
    groups: Mapping[str, Sequence[int]],
    draws: Int64[np.ndarray, "images n"] | None = None,
    judged_on: JudgedOn = "test",
    seed: int = SEED,
    permutations: int = 5,
    null_seed: int = 0,
) -> Measured:
    """The fraction of classes that are absorbed, over all classes of all groups of at least 3 siblings with 10 images; lower is better.

    Latents are ranked and probes fitted on training images of a group, F1 is of its test images; `judged_on="train"` is
    ViSAEBench's: F1 of the images that the probes were fitted on, which 4 latents can always raise more than one.
    A latent that is silent on a class is not among its top latents; in ViSAEBench latents of mean 0 fill up the 10.
    Null: the labels permuted within each group, mean of `permutations`. `n`: classes tested. `draws` resample the images: the top
    latents are chosen anew in each, the probes stay. details: `overlap`, `f1_few`, `f1_many` (means), `classes`: of each test its
    group, label and numbers.
    """
    if not codes.live.any():
        return Measured(float("nan"), details={"reason": "no latent fires"})
    tests = list(_tests(codes, labels, groups, draws, judged_on, seed))
    if not tests:
        reason = "no group has 3 classes and 10 images with 3 of a class"
        return Measured(float("nan"), details={"reason": reason})
    rng, nulls = np.random.default_rng(null_seed), np.full(permutations, np.nan)
    for number in range(permutations):
        tested = _tests(codes, labels, groups, None, judged_on, seed, rng)
        by_chance = [one.absorbed[0] for one in tested]
        nulls[number] = np.mean(by_chance) if by_chance else np.nan
    absorbed = np.stack([test.absorbed for test in tests]).mean(0)
    rows = [
        {
            "group": t.group,
            "label": t.label,
            "overlap": float(t.overlap[0]),
            "f1_few": float(t.few[0]),
            "f1_many": float(t.many[0]),
        }
        for t in tests
    ]
    units = np.array([test.absorbed[0] for test in tests], np.float64)
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("overlap", "f1_few", "f1_many")}
    nulls = nulls[np.isfinite(nulls)]
    null = float(nulls.mean()) if len(nulls) else float("nan")
    return Measured(
        float(absorbed[0]), null, len(tests), absorbed[1:], nulls=nulls, details={**means, "classes": rows}, units=units
    )


def _tests(
    codes: ImageCodes,
    labels: Int[np.ndarray, " images"],
    groups: Mapping[str, Sequence[int]],
    draws: Int64[np.ndarray, "images n"] | None,
    judged_on: JudgedOn,
    seed: int,
    permuted: np.random.Generator | None = None,
) -> Iterator[Tested]:
    """The tests of all classes; with a generator, of classes permuted among the images of each group."""
    for name, children in groups.items():
        rows = np.flatnonzero(np.isin(labels, children))
        children, classes = np.unique(labels[rows], return_inverse=True)
        classes = classes if permuted is None else permuted.permutation(classes)
        if len(children) < MIN_SIBLINGS or len(rows) < MIN_GROUP:
            continue
        pooled = codes.pooled[rows]
        fires = np.flatnonzero(pooled.getnnz(axis=0))
        pooled = pooled[:, fires] if len(fires) > MANY else pooled
        counts = np.ones((len(rows), 1)) if draws is None else np.column_stack([np.ones(len(rows)), draws[rows]])
        overlap = top_overlaps(pooled, classes, counts)
        train, test = split(classes, TEST_FRACTION, seed) if judged_on == "test" else [np.arange(len(rows))] * 2
        ranked = f_statistics_of_each_class(pooled[train], classes[train])
        for c, child in enumerate(children.tolist()):
            y = classes == c
            if min(y.sum(), (~y).sum()) < MIN_SIDE or not 0 < y[train].sum() < len(train) or not y[test].any():
                continue
            x, f1 = pooled[:, descending(ranked[c], MANY)].toarray().astype(np.float32), []
            for k in (FEW, MANY):
                model = logistic_regression(x[train, :k], y[train].astype(np.int64), MAX_ITER, seed)
                f1.append(f1_scores(y[test], np.equal(model.predict(x[test, :k]), 1), counts[test]))
            yield Tested(name, child, overlap[c], f1[0], f1[1])


def f1_scores(
    true: Bool[np.ndarray, " images"], predicted: Bool[np.ndarray, " images"], counts: Float[np.ndarray, "images n"]
) -> Float64[np.ndarray, " n"]:
    """2 TP / (2 TP + FP + FN) of images that are counted so often; 0 where there is neither."""
    hits, sides = (true & predicted) @ counts, true.astype(np.float64) @ counts + predicted.astype(np.float64) @ counts
    return np.divide(2 * hits, sides, where=sides > 0, out=np.zeros_like(sides))


def top_overlaps(
    pooled: csr_matrix, classes: Int64[np.ndarray, " images"], counts: Float[np.ndarray, "images n"]
) -> Float64[np.ndarray, "classes n"]:
    """The Jaccard index of the top latents of each class and of all images, by the mean code over images counted so often."""
    everything = top_latents((pooled.T @ counts).T)
    overlaps = []
    for c in range(int(classes.max()) + 1):
        rows = classes == c
        top = top_latents((pooled[rows].T @ counts[rows]).T)
        both = (top & everything).sum(1)
        overlaps.append(both / np.maximum(top.sum(1) + everything.sum(1) - both, 1))
    return np.stack(overlaps)


def top_latents(sums: Float64[np.ndarray, "n latents"]) -> Bool[np.ndarray, "n latents"]:
    """Which latents are among the TOP largest of each row, those of sum 0 excepted."""
    chosen = np.zeros(sums.shape, bool)
    best = np.argpartition(-sums, min(TOP, sums.shape[1]) - 1, axis=1)[:, :TOP]
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen & (sums != 0)

"""Resamples of the test images: the AP of chosen pairs in each, and what intervals and differences follow from them."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64
from scipy.stats import binomtest

from saev.metrics.resampling import MIN_IMAGES, interval
from saev.probing.bootstrap import ColumnCodes, average_precisions
from saev.scoring.blocks import Scores, ahead, n_threads
from saev.trait_evaluation.grid import Choices

GROUPS = 512


class ResampledUnits(NamedTuple):
    """The test units: their labels, the image of each, and how often each resample has each image."""

    labels: Int8[np.ndarray, "units traits"]
    image: Int64[np.ndarray, " units"]
    drawn: Int64[np.ndarray, "images n"]

    def enough(self) -> Bool[np.ndarray, " traits"]:
        """Whether a trait is in so many images that resamples say something of other images."""
        n_images = len(self.drawn)
        images = [len(np.unique(self.image[column == 1])) for column in self.labels.T]
        return np.array([n >= MIN_IMAGES for n in images], bool) & (n_images >= MIN_IMAGES)


Resampled = dict[tuple[int, int], Float32[np.ndarray, " n"]]  # AP in each resample, by prototype and trait


def resample(
    test: Scores, units: ResampledUnits, choices: Choices, advance: Callable[[int], None] = lambda n: None
) -> Resampled:
    """The AP in each resample of every chosen pair whose trait is in enough images."""
    enough = np.flatnonzero(units.enough()).tolist()
    pairs = {(int(p), int(t)) for t in enough for p in np.unique(choices.prototype[..., t]) if p >= 0}
    n_images = len(units.drawn)
    known, positive = units.labels >= 0, units.labels == 1
    tokens, positives = (
        {t: np.bincount(units.image[of[:, t]], minlength=n_images) for t in enough} for of in (known, positive)
    )

    def evaluate(pair: tuple[int, int]) -> tuple[tuple[int, int], Float32[np.ndarray, " n"]]:
        prototype, trait = pair
        unit, value = column(test, prototype)
        counted = known[unit, trait]
        unit, value = unit[counted], value[counted]
        codes = ColumnCodes(spread(value), positive[unit, trait], units.image[unit], tokens[trait], positives[trait])
        return pair, average_precisions(codes, units.drawn).astype(np.float32)

    resampled: Resampled = {}
    with ThreadPoolExecutor(n_threads()) as pool:
        for pair, aps in ahead(pool, evaluate, iter(sorted(pairs))):
            resampled[pair] = aps
            advance(1)
    return resampled


def spread(values: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Numbers in the order of the scores, none of them 0, that the bootstrap's bins of 1/64 keep apart.

    At most GROUPS different ones of each sign: scores beyond tie with their neighbours, in groups of equal numbers of values.
    """
    out = np.empty_like(values)
    for sign in (-1, 1):
        part = values * sign > 0
        distinct, number = np.unique(np.abs(values[part]), return_inverse=True)
        group = number * min(GROUPS, len(distinct)) // max(len(distinct), 1)
        out[part] = sign * np.ldexp(1 + group % 64 / 64, group // 64)
    return out


def column(scores: Scores, prototype: int) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """(units, scores) of one prototype where they are not 0."""
    if isinstance(scores, np.ndarray):
        values = np.asarray(scores[:, prototype], np.float32)
        unit = np.flatnonzero(values)
        return unit, values[unit]
    block = slice(scores.indptr[prototype], scores.indptr[prototype + 1])
    kept = scores.data[block] != 0
    return scores.indices[block][kept].astype(np.int64), scores.data[block][kept].astype(np.float32)


def cell_draws(resampled: Resampled, prototype: Int64[np.ndarray, "seeds traits"], n: int) -> Float64[np.ndarray, " n"]:
    """The mean AP over seeds and traits of one cell in each resample; traits that a resample lacks are left out of its mean."""
    rows = [
        resampled[int(p), trait]
        for seed in prototype
        for trait, p in enumerate(seed.tolist())
        if (int(p), trait) in resampled
    ]
    if not rows:
        return np.full(n, np.nan)
    stacked = np.stack(rows).astype(np.float64)
    finite = np.isfinite(stacked)
    return np.where(finite, stacked, 0).sum(0) / np.maximum(finite.sum(0), 1)


def difference(
    ap: Float64[np.ndarray, "seeds traits"],
    reference: Float64[np.ndarray, "seeds traits"],
    draws: Float64[np.ndarray, " n"] | None,
    reference_draws: Float64[np.ndarray, " n"] | None,
) -> Mapping[str, float | int]:
    """The paired difference of two methods: of the same traits, seeds, units and number of prototypes.

    diff: mean AP less the reference's; diff_low, diff_high: 95 % over resamples of the test images; better, worse: traits whose
    mean over the seeds is above or below the reference's; sign_p: two-sided sign test over these.
    """
    gain = ap - reference
    gain = gain[:, np.isfinite(gain).any(0)]
    if not gain.size:
        return {}
    by_trait = np.nanmean(gain, 0)
    better, worse = int((by_trait > 0).sum()), int((by_trait < 0).sum())
    row: dict[str, float | int] = {"diff": float(np.nanmean(gain)), "better": better, "worse": worse}
    row["sign_p"] = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    if draws is not None and reference_draws is not None:
        row["diff_low"], row["diff_high"] = interval(draws - reference_draws, row["diff"])
    return row

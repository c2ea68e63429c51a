"""Resamples of the test images: the AP of chosen pairs in each, and what intervals and differences follow from them."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64
from scipy.stats import binomtest

from saev.metrics.paired import sign_flip_p
from saev.metrics.resampling import MIN_IMAGES, interval
from saev.scoring.blocks import Scores, ahead, n_threads
from saev.scoring.ranking import harmonic_numbers, tie_sums
from saev.trait_evaluation.grid import Choices

ENTRIES = 1 << 20  # (unit, resample) pairs in memory at once in each thread


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
    drawn, n_images = units.drawn.astype(np.float32), len(units.drawn)
    known, positives = (
        {t: np.bincount(units.image[units.labels[:, t] >= least], minlength=n_images).astype(np.float32) @ drawn for t in enough}
        for least in (0, 1)
    )  # fmt: skip
    harmonic = harmonic_numbers(int(max((counts.max() for counts in known.values()), default=0)))

    def evaluate(pair: tuple[int, int]) -> tuple[tuple[int, int], Float32[np.ndarray, " n"]]:
        prototype, trait = pair
        unit, value = column(test, prototype)
        label = units.labels[unit, trait]
        order = np.argsort(-value, kind="stable")
        order = order[label[order] >= 0]
        image, value, positive = units.image[unit[order]], value[order], label[order] == 1
        aps = [
            resampled_aps(value, positive, drawn[image, part], known[trait][part], positives[trait][part], harmonic)
            for part in parts(drawn.shape[1], len(image))
        ]
        return pair, np.concatenate(aps).astype(np.float32)

    resampled: Resampled = {}
    with ThreadPoolExecutor(n_threads()) as pool:
        for pair, aps in ahead(pool, evaluate, iter(sorted(pairs))):
            resampled[pair] = aps
            advance(1)
    return resampled


def parts(n: int, rows: int) -> list[slice]:
    """Ranges of n resamples whose counts of so many units fit the bound."""
    step = max(ENTRIES // max(rows, 1), 1)
    return [slice(start, start + step) for start in range(0, n, step)]


def resampled_aps(
    value: Float32[np.ndarray, " units"],
    positive: Bool[np.ndarray, " units"],
    times: Float32[np.ndarray, "units n"],
    known: Float32[np.ndarray, " n"],
    positives: Float32[np.ndarray, " n"],
    harmonic: Float64[np.ndarray, " numbers"],
) -> Float64[np.ndarray, " n"]:
    """The AP in each resample, expected over orders of ties; NaN where it has no positive.

    Args:
        value, positive: of units whose score is not 0, in descending order.
        times: how often each resample has each of them.
        known, positives: units in each resample, with any score, and those that are positive.
    """
    silent = int(np.searchsorted(-value, 0))  # units of score 0 rank here, as one group of ties
    rest, rest_positive = known - times.sum(0), positives - times[positive].sum(0)
    ranks = np.cumsum(np.concatenate([times[:silent], rest[None], times[silent:]]), axis=0)
    counted = np.insert(positive, silent, True)
    hits = np.concatenate([times[:silent][positive[:silent]], rest_positive[None], times[silent:][positive[silent:]]])
    hits = np.cumsum(np.concatenate([np.zeros_like(rest)[None], hits]), axis=0)
    starts = np.flatnonzero(np.diff(np.insert(value, silent, 0), prepend=np.inf))
    stops = np.append(starts[1:], len(counted))
    before = np.append(0, np.cumsum(counted))  # rows of `hits`
    some = before[stops] > before[starts]
    starts, stops = starts[some], stops[some]
    above = np.where((starts > 0)[:, None], ranks[starts - 1], 0)
    sums = tie_sums(
        hits[before[stops]] - hits[before[starts]], ranks[stops - 1] - above, hits[before[starts]], above, harmonic
    )
    return sums.sum(0) / np.where(positives > 0, positives, np.nan)


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
    permutations: int = 0,
    seed: int = 0,
) -> Mapping[str, float | int]:
    """The paired difference of two methods: of the same traits, seeds, units and number of prototypes.

    diff: mean AP less the reference's; diff_low, diff_high: 95 % over resamples of the test images; better, worse: traits whose
    mean over the seeds is above or below the reference's; sign_p: two-sided sign test over these; p: that of the mean over
    traits, by exchanging the methods trait by trait (`sign_flip_p`).
    """
    gain = ap - reference
    gain = gain[:, np.isfinite(gain).any(0)]
    if not gain.size:
        return {}
    by_trait = np.nanmean(gain, 0)
    better, worse = int((by_trait > 0).sum()), int((by_trait < 0).sum())
    row: dict[str, float | int] = {"diff": float(np.nanmean(gain)), "better": better, "worse": worse}
    row["sign_p"] = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    if permutations:
        row["p"] = sign_flip_p(by_trait, permutations, seed)
    if draws is not None and reference_draws is not None:
        row["diff_low"], row["diff_high"] = interval(draws - reference_draws, row["diff"])
    return row

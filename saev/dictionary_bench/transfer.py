"""Transfer of a dictionary to other recordings of the same backbone, as ViSAEBench defines it: the mean of four scores."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from saev.dictionary_bench.class_statistics import SEED
from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.reconstruction import fvu, nmse
from saev.dictionary_bench.sparse_probe import sparse_probe
from saev.metrics.resampling import MIN_IMAGES
from saev.metrics.resampling import draws as resamples

K = 10


class Other(NamedTuple):
    """A dictionary's codes of another recording, and a class per image of it; negative: none."""

    codes: ImageCodes
    labels: Int[np.ndarray, " images"]


def transfer(
    codes: ImageCodes,
    others: Mapping[str, Other],
    n_draws: int = 0,
    k: int = K,
    seed: int = SEED,
    draw_seed: int = 0,
    permutations: int = 20,
) -> Measured:
    """Mean over recordings of the mean of: 1 - FVU (within [0, 1]), coverage (the fraction of latents live in `codes` that are live there),
    Jaccard index of both sets of live latents, and accuracy of a k-sparse probe. `n`: recordings.

    Null: the mean activation for every token, latents live there by chance, classes permuted; NaN without permutations.
    `n_draws` resamples of the images of each other recording (seed `draw_seed`): the latents live in `codes` stay, those live there are
    those of the drawn images.
    details, per recording: `fvu`, `nmse`, `coverage`, `jaccard`, `probe`, `score`, `null`.
    """
    details, values, nulls, drawn = {}, [], [], []
    for name, (other, labels) in others.items():
        draws = (
            resamples(len(other.images), n_draws, draw_seed) if n_draws and len(other.images) >= MIN_IMAGES else None
        )
        error, probe = (
            fvu(other, draws),
            sparse_probe(other, labels, draws, (k,), seed=seed, null_seed=draw_seed, permutations=permutations),
        )
        coverage, jaccard = (float(x[0]) for x in overlaps(codes.live, other.live[:, None]))
        expected = by_chance(int(codes.live.sum()), int(other.live.sum()), codes.n_latents)
        scores = [explained(error.value), coverage, jaccard, probe.value]
        null = [explained(error.null), *expected, probe.null]
        values.append(float(np.mean(scores)))
        nulls.append(float(np.mean(null)))
        details[name] = dict(
            fvu=error.value, nmse=nmse(other).value, coverage=coverage, jaccard=jaccard, probe=probe.value, score=values[-1], null=nulls[-1]
        )  # fmt: skip
        if draws is not None:
            live = live_in_each(other, draws)
            drawn.append(np.mean([np.clip(1 - error.draws, 0, 1), *overlaps(codes.live, live), probe.draws], axis=0))
    resampled = np.mean(drawn, axis=0) if drawn else np.zeros(0)
    return Measured(float(np.mean(values)), float(np.mean(nulls)), len(others), resampled, details=details)


def explained(fvu: float) -> float:
    """1 - FVU, within [0, 1]."""
    return min(max(1 - fvu, 0.0), 1.0)


def overlaps(
    live: Bool[np.ndarray, " latents"], there: Bool[np.ndarray, "latents n"]
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """For each column, the fraction of live latents that are live there (0 where none is), and the Jaccard index (0 where none is)."""
    both = there[live].sum(0)
    union = live.sum() + there.sum(0) - both
    n = int(live.sum())
    return both / n if n else np.zeros(there.shape[1]), both / np.maximum(union, 1)


def by_chance(live: int, there: int, n_latents: int) -> tuple[float, float]:
    """Coverage and Jaccard index of random sets of so many latents: of the expected number that they have in common."""
    both = live * there / n_latents
    return there / n_latents if live else 0.0, both / max(live + there - both, 1)


def live_in_each(codes: ImageCodes, draws: Int64[np.ndarray, "images n"]) -> Bool[np.ndarray, "latents n"]:
    """Which latents have a positive maximum on an image of each resample."""
    positive = codes.matrix((codes.max > 0).astype(np.float32))
    return positive.T @ draws.astype(np.float32) > 0

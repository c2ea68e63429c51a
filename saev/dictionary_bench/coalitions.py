"""Coalition matching: for each concept an AND / OR combination of up to four latents, chosen on one half of the images and judged on the
other (arXiv 2606.24716, where it separates trained from untrained SAEs and single latents do not)."""

import itertools
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int8, Int64
from scipy.sparse import csc_matrix

from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.measured import Measured
from saev.progress import bar
from saev.taxon_map.coalitions import search
from saev.taxon_map.latent_map import firing
from saev.taxon_map.statistics import f1
from saev.trait_evaluation.table import TraitTable

MIN_IMAGES = 5  # with the concept, and without it, in each half
SCHEMA = {
    "concept": pl.String, "n_images": pl.Int64, "f1": pl.Float64, "f1_null": pl.Float64, "f1_single": pl.Float64,
    "coalition": pl.String, "coalition_other_half": pl.String,
}  # fmt: skip


def coalition_matching(
    codes: ImageCodes,
    concepts: TraitTable,
    draws: Int64[np.ndarray, "images n"] | None = None,
    most: int = 4,
    threshold: float = 0.0,
    permutations: int = 20,
    seed: int = 0,
) -> tuple[Measured, pl.DataFrame]:
    """(mean F1 over concepts, a row per concept) of coalitions of at most `most` latents.

    A latent fires on an image where its largest code is above the fraction `threshold` of its largest on all images. Each half of
    the images serves once to choose and once to judge; a concept's F1 is the mean of both. Images of which a concept is not
    known are left out of it, and concepts with fewer than MIN_IMAGES images with it, or without it, in a half.
    Null: the same searches with the images of each half permuted, mean of `permutations`: a latent that always fires has an F1
    of 2 p / (1 + p) for a concept on the fraction p of the images.
    `n`: concepts. units: F1 of each concept. details: `single`, the mean F1 of the first latents alone.
    """
    fires = firing(csc_matrix(codes.pooled), threshold)
    rng = np.random.default_rng(seed)
    half = half_of(len(codes.images), rng)
    judged = [column for column in range(len(concepts.names)) if judgeable(concepts.values[:, column], half)]
    if not judged:
        reason = f"no concept is known to be on {MIN_IMAGES} images, and absent from {MIN_IMAGES}, of each half"
        return Measured(float("nan"), details={"reason": reason}), pl.DataFrame(schema=SCHEMA)
    ones = np.ones((len(half), 1))
    weights = ones if draws is None else np.concatenate([ones, draws], 1)
    rows, resampled, nulls = {}, {}, []
    with bar("Coalitions", len(judged) * (1 + permutations)) as advance:
        for known, columns in by_known(concepts.values, judged):
            values = np.asarray(concepts.values[known][:, columns] == 1, np.float32)
            part, chosen = fires[known], half[known]
            real = two_halves(part, values, chosen, weights[known], most)
            advance(len(columns))
            null = np.full((len(columns), permutations), np.nan)
            for number in range(permutations):
                shuffled = permuted_within(chosen, rng)
                null[:, number] = two_halves(part, values[shuffled], chosen, ones[known], most).f1[:, 0]
                advance(len(columns))
            nulls.append(null)
            means = null.mean(1) if permutations else np.full(len(columns), np.nan)
            numbers = zip(real.f1[:, 0].tolist(), means.tolist(), real.single.tolist(), *real.text, strict=True)
            counts = values.sum(0).astype(int).tolist()
            for column, n, one in zip(columns, counts, numbers, strict=True):
                rows[column] = (concepts.names[column], n, *one)
            resampled |= dict(zip(columns, real.f1[:, 1:], strict=True))
    table = pl.DataFrame([rows[column] for column in judged], schema=SCHEMA, orient="row")
    f1s, single = (table[name].to_numpy() for name in ("f1", "f1_single"))
    chance = np.concatenate(nulls).mean(0)  # of all concepts in each permutation
    null = float(chance.mean()) if permutations else float("nan")
    drawn = np.mean([resampled[column] for column in judged], 0)
    details = {"single": float(single.mean())}
    return Measured(float(f1s.mean()), null, len(f1s), drawn, nulls=chance, units=f1s, details=details), table


def half_of(n_images: int, rng: np.random.Generator) -> Bool[np.ndarray, " images"]:
    """Half of the images, drawn at random."""
    half = np.zeros(n_images, bool)
    half[rng.permutation(n_images)[: n_images // 2]] = True
    return half


def permuted_within(half: Bool[np.ndarray, " images"], rng: np.random.Generator) -> Int64[np.ndarray, " images"]:
    """The numbers of the images, permuted within each half."""
    numbers = np.arange(len(half))
    for side in (half, ~half):
        numbers[side] = rng.permutation(numbers[side])
    return numbers


def judgeable(values: Int8[np.ndarray, " images"], half: Bool[np.ndarray, " images"]) -> bool:
    """Whether a concept is on enough images of each half, and absent from enough."""
    return all(np.count_nonzero(values[side] == value) >= MIN_IMAGES for side in (half, ~half) for value in (0, 1))


def by_known(
    values: Int8[np.ndarray, "images concepts"], columns: list[int]
) -> list[tuple[Bool[np.ndarray, " images"], list[int]]]:
    """These concepts in groups that are known of the same images."""
    known = {column: (values[:, column] >= 0).tobytes() for column in columns}
    groups = itertools.groupby(sorted(columns, key=known.__getitem__), key=known.__getitem__)
    return [(np.frombuffer(key, bool), list(members)) for key, members in groups]


class TwoHalves(NamedTuple):
    """Means over both halves of F1, of the first latent's F1, and the coalition of each half in words."""

    f1: Float64[np.ndarray, "concepts n"]
    single: Float64[np.ndarray, " concepts"]
    text: tuple[list[str], list[str]]


def two_halves(
    fires: csc_matrix,
    members: Float32[np.ndarray, "images concepts"],
    half: Bool[np.ndarray, " images"],
    weights: Float64[np.ndarray, "images n"],
    most: int,
) -> TwoHalves:
    """Choose on each half, judge on the other, each image counted as often as `weights` says."""
    f1s, singles, texts = [], [], []
    for training in (half, ~half):
        latents = candidates(fires[training])
        dense = np.asarray(fires[:, latents].toarray(), np.float32)
        found = search(dense[training], members[training], most)
        test, inside, counted = dense[~training], members[~training], weights[~training]
        for state, scores in ((found.fires(test), f1s), (test[:, found.latents[:, 0]], singles)):
            scores.append(f1((state * inside).T @ counted, state.T @ counted, inside.T @ counted))
        texts.append([found.text(concept, latents) for concept in range(members.shape[1])])
    return TwoHalves(np.mean(f1s, 0), np.mean(singles, 0)[:, 0], (texts[0], texts[1]))


def candidates(fires: csc_matrix) -> Int64[np.ndarray, " latents"]:
    """Latents that fire on any of these images; latent 0 where none does."""
    latents = np.flatnonzero(np.diff(fires.indptr))
    return latents if len(latents) else np.zeros(1, np.int64)

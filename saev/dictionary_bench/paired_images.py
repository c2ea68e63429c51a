"""The paired-image score: does one latent tell apart two images that differ in one attribute? (arXiv 2606.24716)"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from saev.dictionary_bench.coalitions import half_of
from saev.dictionary_bench.measured import Measured
from saev.files import read_csv
from saev.images.tables import match, shortened
from saev.metrics.resampling import MIN_IMAGES, draws

COLUMNS = ("image_a", "image_b", "attribute")
MIN_PAIRS = 2 * MIN_IMAGES  # of an attribute: half of them choose the latent
SLAB = 64  # resamples in memory together
NUMBERS = ("accuracy", "accuracy_null", "specificity")


class ImagePairs(NamedTuple):
    """Pairs of images: image a has the attribute, image b is the same without it."""

    a: Int64[np.ndarray, " pairs"]  # rows of the images that are measured
    b: Int64[np.ndarray, " pairs"]
    attribute: list[str]


def read_pairs(file: str | os.PathLike, paths: list[str], recording: str) -> ImagePairs:
    """A csv of image_a, image_b, attribute: a has the attribute and b has it not. Images are named as in other tables
    (`saev.images.tables.match`). ValueError where a column, or an image, is missing.
    """
    if not Path(file).is_file():
        raise ValueError(f"pairs={file} is not there: give a csv, or painted_over or recoloured to make pairs.")
    table = read_csv(Path(file), infer_schema_length=0)
    if absent := [name for name in COLUMNS if name not in table.columns]:
        raise ValueError(f"pairs={file} has no column {absent[0]!r}: give a csv with the columns {', '.join(COLUMNS)}.")
    for number, row in enumerate(table.select(COLUMNS).iter_rows(), 2):
        if not all(row) or row[0] == row[1]:
            raise ValueError(
                f"pairs={file}, line {number} ({', '.join(str(x or '') for x in row)}): name two different images and their attribute."
            )
    if not len(table):
        raise ValueError(f"pairs={file} has no pairs: give a line for each, {','.join(COLUMNS)}.")
    named = [str(name) for key in COLUMNS[:2] for name in table[key]]
    path_of = match(dict.fromkeys(named), paths, Path(file))
    if missing := sorted({*named} - {*path_of}):
        raise ValueError(
            f"pairs={file}: {shortened(missing)} of its images are not among the {len(paths)} images of {recording}: give their "
            "paths in the recording (examples.parquet, column path), or examples=all."
        )
    row = {path: i for i, path in enumerate(paths)}
    a, b = (np.array([row[path_of[str(name)]] for name in table[key]], np.int64) for key in ("image_a", "image_b"))
    return ImagePairs(a, b, [str(one) for one in table["attribute"]])


def paired_images(
    pooled: csr_matrix, pairs: ImagePairs, n_draws: int = 0, permutations: int = 20, seed: int = 0
) -> tuple[Measured, pl.DataFrame]:
    """(mean accuracy over attributes, a row per attribute): of the latent that differs most consistently between the images of the pairs.

    For each attribute the latent with the largest |sum d| / sqrt(n sum d^2), d being its pooled code on a less that on b, is chosen on half
    of the pairs; on the other half a pair is right where d has the sign it had there, and half right where d is 0. Each half serves once
    to choose and once to judge; pairs that share an image are in the same half. Attributes with fewer than MIN_PAIRS groups of
    pairs without a common image are left out.
    Null: a and b exchanged at random in each group before the latent is chosen, mean of `permutations`: about 1/2.
    `n`: pairs. draws: resamples of the groups, the same for all dictionaries; the latents are chosen anew in each. units: of each
    group of pairs its part of the mean. details: `specificity`.
    Table: accuracy, its null, `specificity` (|d| of the chosen latent over the sum of |d| of all latents), latents of both halves.
    """
    difference = (pooled[pairs.a] - pooled[pairs.b]).tocsr()
    rows, right, nulls, groups = [], [], [], []
    rng = np.random.default_rng(seed)
    schema = {
        "attribute": pl.String,
        "n_pairs": pl.Int64,
        **dict.fromkeys(NUMBERS, pl.Float64),
        "latents": pl.List(pl.Int64),
    }
    for name in sorted({*pairs.attribute}):
        chosen = np.flatnonzero(np.array(pairs.attribute) == name)
        group = connected(pairs.a[chosen], pairs.b[chosen])
        if group.max() + 1 < MIN_PAIRS:
            continue
        d = np.asarray(difference[chosen].toarray(), np.float64)
        half = half_of(int(group.max()) + 1, rng)[group]
        once = np.ones((len(d), 1))
        correct, (latents,) = judged(d, half, once)
        signs = rng.choice([-1.0, 1.0], (permutations, int(group.max()) + 1, 1))[:, group]
        by_chance = np.array([judged(d * sign, half, once)[0].mean() for sign in signs])
        null = float(by_chance.mean()) if permutations else None
        nulls.append(by_chance)
        total = np.abs(d).sum(1)
        both = np.where(half, *[np.abs(d[:, j]) for j in latents[::-1]])
        specific = float((both / np.where(total > 0, total, 1)).mean())
        groups.append(np.bincount(group, correct[:, 0]) / len(d))
        right.append(resampled(d, half, draws(int(group.max()) + 1, n_draws, seed)[group]))
        rows.append({"attribute": name, "n_pairs": len(d), "accuracy": float(correct.mean()), "accuracy_null": null,
                     "specificity": specific, "latents": latents})  # fmt: skip
    table = pl.DataFrame(rows, schema=schema)
    if not rows:
        return Measured(
            float("nan"), details={"reason": f"no attribute has {MIN_PAIRS} pairs without a common image"}
        ), table
    drawn = np.mean(right, 0)
    value = float(table["accuracy"].mean())  # type: ignore[arg-type]
    units = np.concatenate(groups)
    units *= len(units) / len(groups)  # their mean is the mean over attributes
    chance = np.mean(nulls, 0)  # of all attributes in each permutation
    null = float(chance.mean()) if permutations else float("nan")
    details = {"specificity": float(table["specificity"].mean())}  # type: ignore[arg-type]
    n_pairs = int(table["n_pairs"].sum())
    return Measured(value, null, n_pairs, drawn, nulls=chance, units=units, details=details), table


def connected(a: Int64[np.ndarray, " pairs"], b: Int64[np.ndarray, " pairs"]) -> Int64[np.ndarray, " pairs"]:
    """The number of each pair's group: pairs that share an image, directly or through others, are one."""
    n = int(max(a.max(), b.max())) + 1
    of_image = connected_components(csr_matrix((np.ones(len(a)), (a, b)), (n, n)), directed=False)[1]
    return np.unique(of_image[a], return_inverse=True)[1].astype(np.int64)


def resampled(
    d: Float64[np.ndarray, "pairs latents"], half: Bool[np.ndarray, " pairs"], counts: Int64[np.ndarray, "pairs n"]
) -> Float64[np.ndarray, " n"]:
    """The accuracy in each resample, which has each pair so often; latents are chosen anew."""
    d = d[:, d.any(0)] if d.any() else d[:, :1]
    accuracy = np.full(counts.shape[1], np.nan)
    for start in range(0, counts.shape[1], SLAB):
        n = counts[:, start : start + SLAB].astype(np.float64)
        accuracy[start : start + SLAB] = (judged(d, half, n)[0] * n).sum(0) / n.sum(0)
    return accuracy


def judged(
    d: Float64[np.ndarray, "pairs latents"], half: Bool[np.ndarray, " pairs"], counts: Float64[np.ndarray, "pairs n"]
) -> tuple[Float64[np.ndarray, "pairs n"], list[list[int]]]:
    """(1, 0 or 1/2 per pair, the latents chosen on `half` and on the rest), each in n samples that have each pair so often."""
    correct, latents = np.zeros(counts.shape), []
    for training in (half, ~half):
        n = counts[training]
        total, square = d[training].T @ n, (d[training] ** 2).T @ n
        consistency = np.abs(total) / np.sqrt(np.where(square > 0, square * n.sum(0), 1))
        latent = consistency.argmax(0)
        sign = np.sign(total[latent, np.arange(len(latent))])
        correct[~training] = 0.5 + 0.5 * np.sign(d[~training][:, latent]) * sign
        latents.append(latent.tolist())
    return correct, [list(both) for both in zip(*latents, strict=True)]

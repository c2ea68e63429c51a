"""All statistics of every latent over many pairs of groups, from one sort of each latent."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from threadpoolctl import threadpool_limits

from saev.contrasts.permutation import (
    Permutations,
    permutations,
    permuted_labels,
    permuted_z,
    standardised,
    training_z,
    z_scores,
)
from saev.contrasts.ranks import cluster_sums, entries_of, ranks_of
from saev.contrasts.resampled import Drawn, difference_interval, resamples
from saev.contrasts.separation import GroupLabels, separation
from saev.contrasts.sides import Sides
from saev.contrasts.thresholds import Rule, held_out_f1
from saev.scoring.blocks import ENTRIES, MOST, Scores, ahead, n_threads, size
from saev.scoring.ranking import Ranking, rank

LABELS = 1 << 30  # bytes of permuted labels and resamples in memory at once


class PairStatistics(NamedTuple):
    """The statistics of all latents for a pair."""

    columns: dict[str, Float[np.ndarray, " latents"]]  # by name
    fold_z: Float64[np.ndarray, "latents folds"]  # z on the images outside each fold
    fold: Int64[np.ndarray, " clusters"]
    threshold: float  # the |z| above which p_family is at most alpha; NaN: for no |z|, as permutations are few


class Prepared(NamedTuple):
    """A pair with its labels, permutations and resamples."""

    sides: Sides
    position: Int64[np.ndarray, " rows"]
    groups: GroupLabels
    fold: Int64[np.ndarray, " clusters"]
    labels: Float32[np.ndarray, "n clusters"]
    drawn: Drawn


def pair_statistics(
    scores: Scores,
    pairs: Sequence[Sides],
    *,
    n_permutations: int = 1000,
    bootstrap: int = 1000,
    n_folds: int = 5,
    rule: Rule = "strict",
    alpha: float = 0.05,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> list[PairStatistics]:
    """The statistics of every latent for each pair; ValueError for codes that are not finite.

    Columns: those of `separation`, GroupLabels.average_precisions, `difference_interval` and `held_out_f1`; z, p_family, p, q
    (permutation.py). Results do not depend on the other pairs. `advance` is called with the number of latents of a block, once
    for each batch of pairs: `n_batches` says how many.
    """
    n_rows, n_latents = size(scores)
    if not np.isfinite(scores if isinstance(scores, np.ndarray) else scores.data).all():
        raise ValueError("The pooled codes have values that are not finite: they cannot be ranked.")

    def prepare(sides: Sides) -> Prepared:
        return Prepared(
            sides,
            sides.position(n_rows),
            GroupLabels(sides, n_rows),
            sides.folds(n_folds, seed),
            permuted_labels(sides, n_permutations, seed),
            resamples(sides, bootstrap, seed),
        )

    out: list[PairStatistics] = []
    for batch in batches(pairs, n_permutations + bootstrap):
        with ThreadPoolExecutor(n_threads()) as pool:
            prepared = [*ahead(pool, prepare, iter(batch))]
        step = min(max(ENTRIES // max(sides.n_images for sides in batch), 1), MOST)
        parts: list[list[Block]] = [[] for _ in batch]

        def evaluate(start: int, step: int = step, prepared: list[Prepared] = prepared) -> tuple[int, list["Block"]]:
            stop = min(start + step, n_latents)
            ranking = rank(scores, start, stop)
            return stop - start, [of_block(ranking, pair, rule) for pair in prepared]

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads()) as pool:
            for n, results in ahead(pool, evaluate, iter(range(0, n_latents, step))):
                for part, result in zip(parts, results, strict=True):
                    part.append(result)
                advance(n)
        out += [joined(part, pair, alpha) for part, pair in zip(parts, prepared, strict=True)]
    return out


def n_batches(pairs: Sequence[Sides], n_labels: int) -> int:
    """How often all latents are gone through; `n_labels`: permutations and resamples together."""
    return sum(1 for _ in batches(pairs, n_labels))


def batches(pairs: Sequence[Sides], n_labels: int) -> Iterator[list[Sides]]:
    """Pairs whose permuted labels and resamples fit the bound."""
    batch: list[Sides] = []
    used = 0
    for sides in pairs:
        needed = 4 * n_labels * len(sides.cluster_is_a)
        if batch and used + needed > LABELS:
            yield batch
            batch, used = [], 0
        batch.append(sides)
        used += needed
    if batch:
        yield batch


class Block(NamedTuple):
    """Results of a block of latents for a pair."""

    columns: dict[str, Float[np.ndarray, " latents"]]
    fold_z: Float64[np.ndarray, "latents folds"]
    maxima: Float32[np.ndarray, " n"]
    reached: Int64[np.ndarray, " latents"]


def of_block(ranking: Ranking, pair: Prepared, rule: Rule) -> Block:
    """The statistics of the latents of a ranking for a pair."""
    sides = pair.sides
    entries = entries_of(ranking, pair.position)
    ranks = ranks_of(entries, sides)
    columns = separation(entries, ranks, sides) | pair.groups.average_precisions(ranking)
    sums = cluster_sums(entries, ranks, sides)
    fold_z = training_z(sums, sides, pair.fold, int(pair.fold.max()) + 1)
    parts = standardised(sums, sides)
    z = z_scores(parts, sides)
    maxima, reached = permuted_z(parts, z, pair.labels)
    columns |= {"z": z, "varies": np.asarray(parts.any(1))}
    columns |= difference_interval(entries, sides, pair.drawn, columns["difference"])
    columns |= held_out_f1(entries, sides, pair.fold, fold_z >= 0, rule)
    return Block(columns, fold_z, maxima, reached)


def joined(blocks: Sequence[Block], pair: Prepared, alpha: float) -> PairStatistics:
    """The statistics of all latents."""
    columns = {name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns}
    reached = np.concatenate([block.reached for block in blocks])
    maxima = np.max([block.maxima for block in blocks], 0)
    tested: Permutations = permutations(columns["z"], maxima, reached, columns.pop("varies"), alpha)
    columns |= {"p_family": tested.p_family, "p": tested.p, "q": tested.q}
    return PairStatistics(columns, np.concatenate([block.fold_z for block in blocks]), pair.fold, tested.threshold)

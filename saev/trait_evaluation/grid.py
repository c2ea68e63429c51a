"""The best prototype of each trait on training units, and its AP on test units, over a grid of sizes.

n_prototypes: the first so many of a seed's order of the prototypes, so that smaller sets are subsets of larger ones; n_train:
likewise of the seed's order of the training units. One sort of a prototype's scores serves every cell of the grid.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from saev.scoring.blocks import Scores, ahead, blocks, n_threads, size
from saev.scoring.ranking import Labels, Subset, average_precisions, rank


class Grid(NamedTuple):
    """Sizes, ascending; the last ones are all prototypes and all units."""

    n_prototypes: tuple[int, ...]
    n_train: tuple[int, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls, n_prototypes: Sequence[int], n_train: Sequence[int], seeds: Sequence[int], prototypes: int, units: int
    ) -> "Grid":
        """The sizes below the numbers there are, and these numbers themselves ("all")."""
        return cls(
            (*sorted({n for n in n_prototypes if n < prototypes}), prototypes),
            (*sorted({n for n in n_train if n < units}), units),
            tuple(seeds),
        )

    def order(self, seed: int, n: int, what: str) -> Int64[np.ndarray, " n"]:
        """The seed's order of n prototypes or units."""
        return np.random.default_rng([seed, ("prototypes", "units").index(what)]).permutation(n)


class Choices(NamedTuple):
    """The chosen prototypes of each seed, n_train, n_prototypes and trait."""

    prototype: Int64[np.ndarray, "seeds trains sizes traits"]  # -1: the trait has no positive among the training units
    train_ap: Float64[np.ndarray, "seeds trains sizes traits"]  # NaN where there is no prototype
    test_ap: Float64[np.ndarray, "seeds trains sizes traits"]  # NaN, too, without a positive among the test units
    all_train_aps: Float32[np.ndarray, "prototypes traits"]  # of every pair on all training units


def choose(
    train: Scores,
    test: Scores,
    train_labels: Int8[np.ndarray, "train_units traits"],
    test_labels: Int8[np.ndarray, "test_units traits"],
    grid: Grid,
    compat: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> Choices:
    """Rank all prototypes and choose the best in each cell of the grid.

    Of prototypes with equal AP on the training units the first in the seed's order is taken. `compat`, the published protocol:
    the one of the lowest index; tied scores as in scikit-learn; AP 0 for a trait without a positive.

    `advance` is called with the number of prototypes of each block.
    """
    (n_units, n_prototypes), ties = size(train), "last" if compat else "expected"
    labels, test_side = Labels(train_labels, ties), Labels(test_labels, ties)
    subsets, cells = training_subsets(labels, grid, n_units)
    everything = test_side.subset(np.ones(len(test_labels), bool))
    positions = [np.argsort(grid.order(seed, n_prototypes, "prototypes")) for seed in grid.seeds]
    n_traits = train_labels.shape[1]
    shape = (len(grid.seeds), len(grid.n_train), len(grid.n_prototypes), n_traits)
    best = np.full(shape, -1.0), np.full(shape, n_prototypes), np.full(shape, -1)  # AP, tie-break, prototype
    test_ap = np.full((n_prototypes, n_traits), np.nan)
    all_train_aps = np.full((n_prototypes, n_traits), np.nan, np.float32)

    def evaluate(block: tuple[int, int]) -> tuple[int, int, np.ndarray, np.ndarray]:
        ranking = rank(train, *block)
        aps = np.stack([average_precisions(ranking, labels, subset) for subset in subsets])
        return *block, aps, average_precisions(rank(test, *block), test_side, everything)

    with ThreadPoolExecutor(n_threads()) as pool:
        for start, stop, aps, on_test in ahead(pool, evaluate, blocks(train, test, n_traits)):
            test_ap[start:stop], all_train_aps[start:stop] = on_test, aps[0]
            aps = np.nan_to_num(aps, nan=0.0 if compat else -1.0)
            for seed, position in enumerate(positions):
                update(best, seed, aps[cells[seed]], start, position[start:stop], grid.n_prototypes, compat)
            advance(stop - start)
    ap, _, prototype = best
    chosen = np.where(prototype < 0, np.nan, test_ap[prototype, np.arange(n_traits)])
    if compat:
        chosen = np.nan_to_num(chosen)
    return Choices(prototype, np.where(prototype < 0, np.nan, ap), chosen, all_train_aps)


def update(
    best: tuple[np.ndarray, np.ndarray, np.ndarray],
    seed: int,
    aps: Float64[np.ndarray, "trains block traits"],
    start: int,
    position: Int64[np.ndarray, " block"],
    sizes: Sequence[int],
    compat: bool,
) -> None:
    """Put the block's better prototypes in place of the best ones of a seed. `position` is that in the seed's order."""
    tie_break = np.arange(start, start + len(position)) if compat else position
    order = np.argsort(tie_break)
    for number, n in enumerate(sizes):
        members = order[position[order] < n]
        if not len(members):
            continue
        which = aps[:, members].argmax(1)  # of equal ones the first
        value = np.take_along_axis(aps[:, members], which[:, None], 1)[:, 0]
        candidate = members[which]
        ap, tie, prototype = (each[seed, :, number] for each in best)
        better = (value > ap) | ((value == ap) & (value >= 0) & (tie_break[candidate] < tie))
        ap[better], tie[better], prototype[better] = (
            value[better],
            tie_break[candidate][better],
            (start + candidate)[better],
        )


def training_subsets(labels: Labels, grid: Grid, n_units: int) -> tuple[list[Subset], list[list[int]]]:
    """The different subsets of the training units, and per seed the number of that of each n_train."""
    subsets, cells = [labels.subset(np.ones(n_units, bool))], []
    for seed in grid.seeds:
        order = grid.order(seed, n_units, "units")
        cells.append([*range(len(subsets), len(subsets) + len(grid.n_train) - 1), 0])
        for n in grid.n_train[:-1]:
            mask = np.zeros(n_units, bool)
            mask[order[:n]] = True
            subsets.append(labels.subset(mask))
    return subsets, cells

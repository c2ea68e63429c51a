"""Tables of `saev.traits`: a row per trait and cell of the grid, and their means."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from saev.metrics.resampling import interval
from saev.scoring.blocks import Scores
from saev.scoring.ranking import Labels
from saev.scoring.scorers import TYPES
from saev.trait_evaluation.grid import Choices, Grid
from saev.trait_evaluation.intervals import Resampled
from saev.trait_evaluation.units import Side

# of two rows with equal values in these, one stands for both; a dictionary is known by its weights, whatever it is called
KEY = (
    "kind", "sha256", "labels", "n_prototypes", "n_train", "n_latents", "seed", "trait", "units", "vit", "layer", "tokens", "pool",
    "label_mode", "protocol",
)  # fmt: skip


def flat_scores(test: Scores) -> tuple[Bool[np.ndarray, " prototypes"], Bool[np.ndarray, " prototypes"]]:
    """(silent, constant): prototypes with score 0 on every test unit, and with one other score on all of them."""
    if isinstance(test, np.ndarray):
        low, high = test.min(0), test.max(0)
    else:
        low, high = (np.asarray(extreme.todense()).ravel() for extreme in (test.min(0), test.max(0)))
    return (low == 0) & (high == 0), (low == high) & (low != 0)


def trait_rows(
    names: Sequence[str],
    grid: Grid,
    choices: Choices,
    flat: tuple[Bool[np.ndarray, " prototypes"], Bool[np.ndarray, " prototypes"]],
    train: Side,
    test: Side,
    resampled: Resampled,
    constants: Mapping[str, Any],
    compat: bool = False,
) -> pl.DataFrame:
    """A row per seed, n_train, n_prototypes and trait. `constants` are the columns that are the same in all of them."""
    cells = np.indices(choices.prototype.shape).reshape(4, -1)
    seed, n_train, size, trait = cells
    prototype, ap = choices.prototype.ravel(), choices.test_ap.ravel()
    chosen = prototype >= 0
    status = np.where(chosen, "ok", "unselected")
    for name, which in zip(("silent", "constant"), flat, strict=True):
        status = np.where(chosen & which[prototype], name, status)
    ends = np.full((2, len(ap)), np.nan)
    for number in np.flatnonzero(chosen):
        draws = resampled.get((int(prototype[number]), int(trait[number])))
        if draws is not None:
            low, high = interval(draws.astype(np.float64), float(ap[number]))
            ends[:, number] = max(low, 0.0), min(high, 1.0)
    train_positive = positives_of_cells(train, grid)
    positive, known = (test.labels == 1).sum(0), (test.labels >= 0).sum(0)
    labels = Labels(test.labels, "last" if compat else "expected")
    constant = labels.constant_ap(labels.subset(np.ones(len(test.labels), bool)))
    table = pl.DataFrame(
        {
            "trait": pl.Series(names).gather(trait),
            "n_prototypes": np.array(grid.n_prototypes)[size],
            "n_train": np.array(grid.n_train)[n_train],
            "n_latents": np.ones(len(ap), np.int64),
            "seed": np.array(grid.seeds)[seed],
            "prototype": pl.Series(prototype).replace(-1, None),
            "status": status,
            "train_ap": choices.train_ap.ravel(),
            "test_ap": ap,
            "ap_low": ends[0],
            "ap_high": ends[1],
            "prevalence": (positive / np.maximum(known, 1))[trait],
            "constant_ap": constant[trait],
            "n_pos_train": train_positive[seed, n_train, trait],
            "n_pos_test": positive[trait],
            "n_test": known[trait],
        }
    )
    return with_constants(table, constants)


def with_constants(table: pl.DataFrame, constants: Mapping[str, Any]) -> pl.DataFrame:
    """The table with the same values in further columns, NaN as null, and `key`: 16 hex digits that name the row in any job."""
    table = table.with_columns(pl.col(pl.Float64).fill_nan(None))
    table = table.with_columns(pl.lit(value, TYPES.get(name)).alias(name) for name, value in constants.items())
    columns = [name for name in KEY if name in table.columns]
    if constants.get("sha256") is None and "method" in constants:
        columns.append("method")
    parts = table.select(columns).rows()
    digests = [hashlib.sha256(repr(row).encode()).hexdigest()[:16] for row in parts]
    return table.with_columns(pl.Series("key", digests))


def positives_of_cells(train: Side, grid: Grid) -> np.ndarray:
    """Positive training units of each seed, n_train and trait."""
    positive, n = train.labels == 1, len(train.example)
    out = np.zeros((len(grid.seeds), len(grid.n_train), positive.shape[1]), np.int64)
    for number, seed in enumerate(grid.seeds):
        total = np.cumsum(positive[grid.order(seed, n, "units")], axis=0)
        out[number] = total[np.array(grid.n_train) - 1]
    return out


def mean_rows(
    rows: pl.DataFrame, draws: Mapping[tuple[int, int], Float64[np.ndarray, " n"]], fraction_silent: float
) -> pl.DataFrame:
    """A row per n_train and n_prototypes of one method: means over seeds and traits.

    map: mean test AP; q05, q95: quantiles of the AP over traits and seeds; map_low, map_high: 95 % over resamples of the test
    images; constant_map: of a score that is the same everywhere; unselected, silent, constant: (trait, seed) pairs.
    """
    keys = ["n_prototypes", "n_train", "n_latents"]
    ap = pl.col("test_ap")
    means = rows.group_by(keys, maintain_order=True).agg(
        ap.mean().alias("map"),
        ap.quantile(0.05, "linear").alias("q05"),
        ap.quantile(0.95, "linear").alias("q95"),
        pl.col("train_ap").mean().alias("train_map"),
        pl.col("constant_ap").filter(ap.is_not_null()).mean().alias("constant_map"),
        *((pl.col("status") == name).sum().alias(name) for name in ("unselected", "silent", "constant")),
        pl.col("trait").n_unique().alias("n_traits"),
        pl.col("seed").n_unique().alias("n_seeds"),
    )
    ends = []
    for row in means.iter_rows(named=True):
        drawn = draws.get((row["n_train"], row["n_prototypes"]))
        ends.append((None, None) if drawn is None or row["map"] is None else interval(drawn, row["map"]))
    low, high = zip(*ends, strict=True)
    columns = {"map_low": pl.Series(low, dtype=pl.Float64), "map_high": pl.Series(high, dtype=pl.Float64)}
    return means.with_columns(**columns, fraction_silent=pl.lit(fraction_silent)).with_columns(
        pl.col(pl.Float64).fill_nan(None)
    )


def image_rows(
    names: Sequence[str],
    test: Side,
    scores: Scores,
    prototype: Int64[np.ndarray, " traits"],
    constants: Mapping[str, Any],
    n: int = 8,
    n_missed: int = 4,
) -> pl.DataFrame:
    """For each trait the images of the largest scores of its prototype (`top`), and of its lowest-scoring other positives (`missed`)."""
    rows = []
    for trait, chosen in enumerate(prototype.tolist()):
        if chosen < 0:
            continue
        column = scores[:, chosen] if isinstance(scores, np.ndarray) else scores[:, [chosen]].toarray().ravel()
        label = test.labels[:, trait]
        order = np.argsort(-column, kind="stable")
        known = order[label[order] >= 0]
        others = known[n:][::-1]
        missed = others[label[others] == 1][:n_missed]
        for what, units in (("top", known[:n]), ("missed", missed)):
            for rank, unit in enumerate(units.tolist()):
                rows.append(
                    {"trait": names[trait], "prototype": chosen, "what": what, "rank": rank, "example": int(test.example[unit]),
                     "score": float(column[unit]), "has": bool(label[unit] == 1)}
                )  # fmt: skip
    table = pl.DataFrame(rows, schema=IMAGE_ROWS)
    return table.with_columns(pl.lit(constants[key]).alias(key) for key in ("method", "layer", "test"))


IMAGE_ROWS = {
    "trait": pl.String, "prototype": pl.Int64, "what": pl.String, "rank": pl.Int64, "example": pl.Int64, "score": pl.Float64,
    "has": pl.Boolean,
}  # fmt: skip

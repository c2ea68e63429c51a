"""The tables of one layer: every method ranked, resampled, compared with one of them and with permuted labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from saev.metrics.resampling import draws
from saev.progress import bar
from saev.trait_evaluation.grid import Choices, Grid, choose
from saev.trait_evaluation.intervals import ResampledUnits, cell_draws, difference, resample
from saev.trait_evaluation.methods import RAW, Method
from saev.trait_evaluation.rows import IMAGE_ROWS, flat_scores, image_rows, mean_rows, trait_rows, with_constants
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.supervised import several, supervised
from saev.trait_evaluation.units import Side, permuted

TRUE, PERMUTED = "true", "permuted"
CELL = ["n_train", "n_prototypes"]
DIFFERENCES = {
    "n_train": pl.Int64, "n_prototypes": pl.Int64, "diff": pl.Float64, "diff_low": pl.Float64, "diff_high": pl.Float64,
    "better": pl.Int64, "worse": pl.Int64, "sign_p": pl.Float64, "p": pl.Float64,
}  # fmt: skip
Cells = Mapping[tuple[int, int], tuple[Float64[np.ndarray, "seeds traits"], Float64[np.ndarray, " n"]]]


class Comparison(NamedTuple):
    """What all methods of a layer share. `where`: columns that are the same in all rows."""

    names: tuple[str, ...]
    train: Side
    test: Side
    settings: TraitsSettings
    where: Mapping[str, Any]

    @property
    def compat(self) -> bool:
        return self.settings.compat == "saev"


Tables = dict[str, list[pl.DataFrame]]


def tables_of_layer(
    compared: Comparison,
    methods: Sequence[Method],
    raw: tuple[Float32[np.ndarray, "train_units d_model"], Float32[np.ndarray, "test_units d_model"]],
) -> dict[str, pl.DataFrame]:
    """The tables traits, results and images of one layer's methods, and of logistic regressions on raw activations."""
    settings = compared.settings
    sizes = {*settings.n_prototypes, *(one.n_prototypes for one in methods)}  # all compare at equal numbers
    reference: Cells = {}
    tables: Tables = {"traits": [], "results": [], "images": [empty_images()]}
    # the last one of a kind: those that were fitted for this comparison come after those that were given
    meant = [one for one in methods if one.kind == settings.against]
    first = next((one for one in methods if one.name == settings.against), meant[-1] if meant else None)
    for method in sorted(methods, key=lambda one: one is not first):
        cells = add_method(tables, compared, method, sizes, reference)
        if method is first:
            reference = cells
    if settings.supervised:
        with bar("Logistic regressions on raw activations", len(compared.names)) as advance:
            labels = compared.train.labels, compared.test.labels
            aps = supervised(*raw, *labels, compared.train.cluster, settings.ridges, settings.seed, advance)
        width = raw[0].shape[1]
        constants = {"method": RAW, "kind": "supervised", "labels": TRUE, **compared.where}
        add_regression(tables, compared, aps, width, width, constants, 0.0)
    return {name: pl.concat(parts, how="diagonal_relaxed") for name, parts in tables.items()}


def add_method(tables: Tables, compared: Comparison, method: Method, sizes: set[int], reference: Cells) -> Cells:
    """Add the rows of one method; its test AP, and that in each resample, by cell of the grid."""
    names, train, test, settings, where = compared
    grid = Grid.of(sorted(sizes), settings.n_train, settings.seeds, method.n_prototypes, len(train.example))
    constants = {"method": method.name, "kind": method.kind, "labels": TRUE, **method.about, **where}
    with bar(method.name, method.n_prototypes) as advance:
        choices = choose(method.train, method.test, train.labels, test.labels, grid, compared.compat, advance)
    units = ResampledUnits(test.labels, test.cluster, draws(test.n_clusters, settings.bootstrap, settings.seed))
    resampled = resample(method.test, units, choices) if settings.bootstrap else {}
    cells = {
        (n_train, size): (
            choices.test_ap[:, a, b],
            cell_draws(resampled, choices.prototype[:, a, b], settings.bootstrap),
        )
        for a, n_train in enumerate(grid.n_train)
        for b, size in enumerate(grid.n_prototypes)
    }
    flat = flat_scores(method.test)
    fraction_silent = float(flat[0].mean())
    rows = trait_rows(names, grid, choices, flat, train, test, resampled, constants, compared.compat)
    means = mean_rows(rows, {cell: drawn for cell, (_, drawn) in cells.items()}, fraction_silent)
    means = means.join(differences(cells, reference, settings), CELL, "left", maintain_order="left")
    tables["traits"].append(rows)
    if test.token is None and method.about:
        tables["images"].append(image_rows(names, test, method.test, choices.prototype[0, -1, -1], constants))
    if "permuted" in settings.nulls:
        null = null_rows(compared, method, grid, {**constants, "labels": PERMUTED})
        tables["traits"].append(null)
        at = null.group_by(CELL).agg(pl.col("test_ap").mean().alias("null_map"))
        means = means.join(at, CELL, "left", maintain_order="left")
    tables["results"].append(with_constants(means, constants))
    for n in settings.several:
        aps = several(method.train, method.test, train.labels, test.labels, choices.all_train_aps, n)
        add_regression(tables, compared, aps, method.n_prototypes, n, constants, fraction_silent)
    return cells


def differences(cells: Cells, reference: Cells, settings: TraitsSettings) -> pl.DataFrame:
    """The paired differences to the reference, a row per cell that both have."""
    rows = [
        {
            "n_train": cell[0],
            "n_prototypes": cell[1],
            **difference(ap, reference[cell][0], drawn, reference[cell][1], settings.permutations, settings.seed),
        }
        for cell, (ap, drawn) in cells.items()
        if cell in reference
    ]
    return pl.DataFrame(rows, schema=DIFFERENCES).with_columns(pl.col(pl.Float64).fill_nan(None))


def null_rows(compared: Comparison, method: Method, grid: Grid, constants: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of the first seed with permuted labels on both sides: what choosing among so many prototypes gives by chance."""
    names, train, test, settings, _ = compared
    train, test = (permuted(side, settings.seed + number) for number, side in enumerate((train, test)))
    grid = grid._replace(seeds=grid.seeds[:1])
    with bar(f"{method.name}, permuted", method.n_prototypes) as advance:
        choices = choose(method.train, method.test, train.labels, test.labels, grid, compared.compat, advance)
    return trait_rows(names, grid, choices, flat_scores(method.test), train, test, {}, constants, compared.compat)


def add_regression(
    tables: Tables,
    compared: Comparison,
    aps: Float64[np.ndarray, "2 traits"],
    n_prototypes: int,
    n_latents: int,
    constants: Mapping[str, Any],
    fraction_silent: float,
) -> None:
    """Add the rows of logistic regressions on all training units, each on `n_latents` of the prototypes."""
    names, train, test, settings, _ = compared
    grid, shape = Grid((n_prototypes,), (len(train.example),), settings.seeds[:1]), (1, 1, 1, len(names))
    choices = Choices(
        np.zeros(shape, np.int64), aps[0].reshape(shape), aps[1].reshape(shape), np.zeros((1, len(names)), np.float32)
    )
    never = np.zeros(1, bool), np.zeros(1, bool)
    rows = trait_rows(names, grid, choices, never, train, test, {}, {}, compared.compat).drop("key")
    rows = rows.with_columns(n_latents=pl.lit(n_latents), prototype=pl.lit(None, pl.Int64))
    rows = with_constants(rows, constants)
    tables["traits"].append(rows)
    tables["results"].append(with_constants(mean_rows(rows, {}, fraction_silent), constants))


def empty_images() -> pl.DataFrame:
    """The table of images without rows."""
    return pl.DataFrame(schema={**IMAGE_ROWS, "method": pl.String, "layer": pl.Int64, "test": pl.String})

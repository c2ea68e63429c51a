"""Results of `saev traits` as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import Column, digits, three, whole
from saev.visuals.tables import new_table


def p_text(p: float) -> str:
    """A p in one significant digit."""
    return digits(p, 1)


TRAITS = (
    Column("map", "mAP", three, "mean over traits of the test AP of each trait's best prototype; 95 % interval over test images"),
    Column("diff", "difference", three, "that less the mAP of as many prototypes of the reference; 95 % interval over test images"),
    Column("p", "p", p_text, "of the difference: exchanging the two methods trait by trait at random"),
    Column("better", "better", whole, "traits with a higher AP than by the reference; the others are worse or equal"),
    Column("constant_map", "constant", three, "the mAP of a score that is the same everywhere: about the mean prevalence"),
    Column("null_map", "null", three, "the mAP with permuted labels: what choosing among so many prototypes gives by chance"),
    Column("silent", "silent", whole, "(trait, seed) pairs whose prototype scores 0 on all test images"),
    Column("unselected", "unselected", whole, "pairs without a prototype, as no training image has the trait"),
    Column("n_prototypes", "prototypes", whole, "number of prototypes that the best is chosen from"),
)  # fmt: skip


def full(results: pl.DataFrame) -> pl.DataFrame:
    """The rows of all prototypes and all training units."""
    largest = ["method", "layer", "n_latents"]
    return results.filter(
        (pl.col("n_prototypes") == pl.col("n_prototypes").max().over(largest))
        & (pl.col("n_train") == pl.col("n_train").max().over(largest))
    )


def title_of(row: Mapping[str, Any], several_layers: bool) -> str:
    """The method's name, the number of prototypes in a logistic regression, and the layer where there are several.

    >>> title_of({"method": "topk", "kind": "sae", "n_latents": 4, "layer": 8}, True)
    'topk x4, layer 8'
    """
    together = f" x{row['n_latents']}" if row["n_latents"] > 1 and row["kind"] != "supervised" else ""
    return f"{row['method']}{together}" + (f", layer {row['layer']}" if several_layers else "")


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that a row has a number in; of counts of exceptions, those that are not 0 everywhere."""
    counts = ("silent", "unselected")
    return [
        c
        for c in TRAITS
        if any((row.get(c.key) or 0) > 0 if c.key in counts else row.get(c.key) is not None for row in rows)
    ]


def cell(column: Column, row: Mapping[str, Any], digits: int = 3) -> str:
    """The number with its interval, where the row has one, of so many digits."""
    low, high = row.get(f"{column.key}_low"), row.get(f"{column.key}_high")
    ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    text = column.text(row) + ends
    return text if column.key != "better" or row.get("better") is None else f"{text}/{row['n_traits']}"


def traits_table(results: pl.DataFrame) -> Table:
    """A row per method with all of its prototypes and all training units, the best first; and a score that is the same everywhere.

    The last column has the mAP of logistic regressions on the most prototypes together.
    """
    rows = full(results).sort("map", descending=True, nulls_last=True).to_dicts()
    single = [row for row in rows if row["n_latents"] == 1 or row["kind"] == "supervised"]
    columns = [column for column in columns_of(single) if column.key not in ("constant_map", "n_prototypes")]
    together = {
        (row["method"], row["layer"], row["n_latents"]): row["map"] for row in rows if row["kind"] != "supervised"
    }
    if (most := max((n for *_, n in together), default=1)) > 1:
        meaning = (
            f"mAP of logistic regressions on the {most} prototypes that are best on training {results['unit'][0]}s"
        )
        columns.append(Column("together", f"best {most}", three, meaning))
    table = new_table("method", [f"{column.label}: {column.meaning}" for column in columns], columns)
    layers = results["layer"].n_unique() > 1
    for row in single:
        row["together"] = together.get((row["method"], row["layer"], most)) if most > 1 else None
        table.add_row(Text(title_of(row, layers)), *(cell(column, row, 2) for column in columns))
    for layer, value in dict(zip(results["layer"], results["constant_map"], strict=True)).items():
        constant = {"method": "constant score", "kind": "", "n_latents": 1, "layer": layer, "map": value}
        table.add_row(Text(title_of(constant, layers)), *(cell(column, constant) for column in columns), style="dim")
    return table

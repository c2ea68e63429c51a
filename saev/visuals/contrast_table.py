"""Results of `saev contrast` as a table in the terminal, and on the page."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.console import Group
from rich.text import Text

from saev.annotations import titled
from saev.visuals.columns import MISSING, Column, three, whole
from saev.visuals.tables import new_table

COLUMNS = (
    Column("separating", "separating", whole, "latents with a |z| that at most a share alpha of the permutations has for any latent"),
    Column("auroc", "AUROC", three, "of the latent that is best on training folds, on held-out images; mean over folds [95 % over images]"),
    Column("diff", "− random", three, "AUROC of the best of n_compared latents less that of as many random vectors, on the same images"),
    Column("accuracy", "L1", three, "balanced accuracy on held-out folds of L1 logistic regression on all latents [95 % over images]"),
    Column("accuracy_raw", "raw", three, "balanced accuracy of logistic regression on raw activations, averaged over tokens"),
    Column("accuracy_null", "null", three, "balanced accuracy of the L1 regression with permuted groups"),
    Column("latent_auroc", "all images", three, "AUROC of the latent with the largest |z|, measured on the images that it is chosen on"),
    Column("f1", "F1", three, "of that latent, by a threshold of training folds, on held-out images"),
)  # fmt: skip
TERMINAL = ("separating", "auroc", "diff", "accuracy")  # what fits into 80 characters; the page has all


def title_of(row: Mapping[str, Any], several_layers: bool) -> str:
    """The method, and the layer where there are several."""
    return row["method"] + (f", layer {row['layer']}" if several_layers else "")


def cell(column: Column, row: Mapping[str, Any], digits: int = 3) -> str:
    """The number with its interval, where the row has one; counts with their total."""
    low, high = row.get(f"{column.key}_low"), row.get(f"{column.key}_high")
    ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    total = f"/{row['n_latents']:,}" if column.key == "separating" else ""
    text = column.text(row)
    return text if text == MISSING else text + total + ends


def columns_of(results: pl.DataFrame) -> list[Column]:
    """The columns that a row has a number in."""
    return [column for column in COLUMNS if column.key in results.columns and results[column.key].count()]


def contrast_table(results: pl.DataFrame) -> Group:
    """A table for each pair, with a row per method, the best first."""
    columns = [column for column in columns_of(results) if column.key in TERMINAL]
    layers, rows = results["layer"].n_unique() > 1, ordered(results)
    tables = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        of_pair = [row for row in rows if row["pair"] == pair]
        explained = [f"{column.label}: {column.meaning}" for column in columns] if not tables else []
        table = new_table("method", explained, columns)
        raw = next((row["accuracy_raw"] for row in of_pair if row.get("accuracy_raw") is not None), None)
        sizes = f"{of_pair[0]['n_a']} and {of_pair[0]['n_b']} images"
        table.title = f"{pair}: {sizes}" + ("" if raw is None else f"; raw activations {raw:.3f}")
        table.title_justify, table.title_style = "left", "bold"
        table.add_column("latent", justify="right")
        for row in of_pair:
            cells = [cell(column, row, 2) if column.key == "diff" else column.text(row) for column in columns]
            table.add_row(
                Text(title_of(row, layers)), *cells, Text(titled(row["latent"], {row["latent"]: row.get("name") or ""}))
            )
        tables.append(table)
    return Group(*tables)


def ordered(results: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of each pair together, the best AUROC first."""
    pairs = {name: i for i, name in enumerate(dict.fromkeys(results["pair"]))}
    rows = results.sort("auroc", descending=True, nulls_last=True).to_dicts()
    return sorted(rows, key=lambda row: pairs[row["pair"]])

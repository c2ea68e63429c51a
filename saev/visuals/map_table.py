"""Results of `saev map` as a table in the terminal: a row per node."""

import polars as pl
from rich.table import Table
from rich.text import Text

from saev.visuals.columns import Column, whole
from saev.visuals.tables import new_table

two = "{:.2f}".format
NODES = (
    Column("n_images", "images", whole, "images in the node"),
    Column("latent", "latent", whole, "the latent with the highest F1 over all images"),
    Column("sufficiency", "suff.", two, "sufficiency: the fraction of its firing images that are in the node"),
    Column("necessity", "nec.", two, "necessity: the fraction of the node's images on which it fires"),
    Column("f1", "F1", two, "harmonic mean of the two"),
    Column("null_f1", "null", two, "95th percentile of the highest F1 over all latents with permuted taxa"),
    Column("p", "p", "{:.3f}".format, "permutations whose highest F1 reaches this one (family-wise over latents)"),
    Column("coalition_f1", "coal.", two, "F1 of the coalition of latents, on the half of the images that it was not chosen on"),
    Column("coalition_null_f1", "null", two, "95th percentile of the same with permuted taxa"),
)  # fmt: skip
MOST = 40  # nodes


def map_table(results: pl.DataFrame) -> Table:
    """A row per node of one dictionary, in the order of the tree; of more than `MOST` nodes those furthest above the null."""
    rows = results.to_dicts()
    columns = [column for column in NODES if any(row.get(column.key) is not None for row in rows)]
    margin = pl.col("f1") - pl.col("null_f1").fill_null(0)
    kept = {*results.sort(margin, descending=True, maintain_order=True).head(MOST)["node"]}
    table = new_table(results["member"][0], [f"{column.label}: {column.meaning}" for column in columns], columns)
    if named := any(row.get("name") for row in rows):
        table.add_column("name", overflow="fold")
    for row in rows:
        if row["node"] in kept:
            cells = [column.text(row) for column in columns]
            table.add_row(
                Text("  " * (row["depth"] - 1) + row["value"]), *cells, *([Text(row["name"] or "")] if named else [])
            )
    if len(rows) > len(kept):
        table.add_row(Text(f"{len(rows) - len(kept)} more in results.csv", style="dim"))
    return table

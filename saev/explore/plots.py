"""The explorer's plots as Altair charts, in the colours of the other pages."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from saev.visuals.frontier import series_of
from saev.visuals.style import PALETTE


def frontier_chart(
    table: pl.DataFrame, colour: str = "kind", shape: str | None = None
) -> alt.LayerChart | alt.FacetChart:
    """NMSE against L0, a point per dictionary of `dictionaries`: coloured and shaped by columns, with lines through equal series
    (baselines dashed) and a ring around the Pareto-optimal ones."""
    finite = pl.col("l0", "nmse").cast(pl.Float64).is_finite()
    table = table.filter(pl.all_horizontal(finite), pl.col("l0") > 0)
    table = table.with_columns(
        series=pl.Series(series_of(table.to_dicts()), dtype=pl.String), baseline_line=pl.col("kind") != "sae"
    )
    x = alt.X("l0:Q", title="L0: active latents per token", scale=alt.Scale(type="log", nice=False, padding=16))
    y = alt.Y("nmse:Q", title="NMSE (0 = perfect, 1 = mean)", scale=alt.Scale(zero=True))
    base = alt.Chart(table).encode(x=x, y=y)
    shown = [name for name in ("name", "run", "l0", "nmse", "dead", "n_latents", "layer") if name in table.columns]
    hue = hue_of(table, colour)
    lines = base.mark_line(strokeWidth=1, opacity=0.5).encode(
        detail=["series:N", *(f"{name}:N" for name in ("layer", "dataset") if name in table.columns)],
        strokeDash=alt.StrokeDash("baseline_line:N", legend=None, scale=alt.Scale(domain=[False, True], range=[[1, 0], [4, 3]])),
        order="l0:Q", color=hue,
    )  # fmt: skip
    chosen = alt.selection_point(name="chosen", fields=["path"], on="click")
    points = (
        base.mark_point(filled=True, size=90, opacity=1, cursor="pointer")
        .encode(color=hue, tooltip=shown)
        .add_params(chosen)
    )
    if shape is not None:
        points = points.encode(shape=alt.Shape(f"{shape}:N", title=shape))
    rings = base.mark_point(size=230, strokeWidth=1.5, filled=False, color="#222222").transform_filter("datum.pareto")
    return (lines + rings + points).properties(
        height=340, width="container", usermeta={"embedOptions": {"renderer": "svg"}}
    )


def hue_of(table: pl.DataFrame, column: str) -> alt.Color:
    """A colour by a column: of a palette for few values or texts, else from light to dark."""
    few = table[column].n_unique() <= len(PALETTE) or not table[column].dtype.is_numeric()
    if few:
        legend = alt.Legend(symbolOpacity=1, labelLimit=240)
        return alt.Color(f"{column}:N", title=column, scale=alt.Scale(range=list(PALETTE)), legend=legend)
    return alt.Color(f"{column}:Q", title=column, scale=alt.Scale(scheme="viridis"))


def density_chart(table: pl.DataFrame, bins: Sequence[int] = (48, 32)) -> alt.Chart:
    """How many latents have which log10 frequency and log10 mean value: a cell each, to be brushed."""
    return (
        alt.Chart(cells(table, bins))
        .mark_rect()
        .encode(
            x=alt.X("low_frequency:Q", title="log10 frequency", scale=alt.Scale(zero=False, nice=False)), x2="high_frequency:Q",
            y=alt.Y("low_value:Q", title="log10 mean value", scale=alt.Scale(zero=False, nice=False)), y2="high_value:Q",
            color=alt.Color("latents:Q", scale=alt.Scale(scheme="blues", type="log"), legend=None),
            tooltip=["latents"],
        )
        .properties(height=220, width="container")
    )  # fmt: skip


def cells(table: pl.DataFrame, bins: Sequence[int] = (48, 32)) -> pl.DataFrame:
    """The cells with a latent: low and high log10 frequency and log10 mean value, and latents."""
    columns = ("frequency", "value")
    points = table.select(f"log10_{name}" for name in columns).drop_nulls().to_numpy()
    counts, *edges = (
        np.histogram2d(points[:, 0], points[:, 1], list(bins))
        if len(points)
        else (np.zeros((1, 1)), *2 * [np.zeros(2)])
    )
    chosen = np.nonzero(counts)
    ends = {
        f"{side}_{name}": edge[index + shift]
        for name, edge, index in zip(columns, edges, chosen, strict=True)
        for side, shift in (("low", 0), ("high", 1))
    }
    return pl.DataFrame({**ends, "latents": counts[chosen].astype(np.int64)})

"""traits.html: the results of `saev traits`. One file without network; a small script sorts and searches the table of traits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saev.annotations import titled
from saev.dictionary import Dictionary
from saev.shards import ActivationStore
from saev.visuals.columns import MISSING, digits, whole
from saev.visuals.page import write_page
from saev.visuals.pictures import Album, Images, Shown
from saev.visuals.style import add_legend, colours, data_uri, height_for, panel, readable_log
from saev.visuals.top_images import grid, heatmaps
from saev.visuals.traits_table import cell, columns_of, full, title_of

MOST = 60  # traits with pictures


def write_traits_page(
    path: str | Path,
    traits: pl.DataFrame,
    results: pl.DataFrame,
    images_of_traits: pl.DataFrame,
    *,
    store: ActivationStore,
    members: Mapping[tuple[str, int], Dictionary] | None = None,
    names: Mapping[tuple[str, int], Mapping[int, str]] | None = None,
    images: Images | None = None,
    credits: Sequence[str] = (),
    files: Mapping[str, str | Path] | None = None,
    title: str = "Traits",
) -> Path:
    """Write the page in one step and return its path.

    Args:
        traits, results, images_of_traits: the tables of `saev.traits`.
        store: the recording of the test images.
        members: dictionaries by method and layer, for heat maps.
        names: of annotated latents, by method and layer.
        images: the source of the test images; None: a page without photos.
    """
    unit = results["unit"][0]
    several_layers = results["layer"].n_unique() > 1
    rows = full(results).sort("map", descending=True, nulls_last=True).to_dicts()
    columns = columns_of(rows)
    album = Album(images, store)
    best = best_methods(traits)
    galleries = (
        galleries_of(best, images_of_traits, album, store, members or {}, names or {}) if images is not None else []
    )
    headings, cells = trait_cells(traits, best, several_layers)
    left_out = f"The first {len(galleries)} traits of the table are shown." if len(best) > len(galleries) else ""
    return write_page(
        path, "traits_page.html.j2", title=title, facts=facts_of(traits, results), unit=unit, columns=columns,
        methods=[{"name": title_of(row, several_layers), "cells": [cell(column, row) for column in columns]} for row in rows],
        curves=figures(results, several_layers, unit), bands=results["map_low"].count() > 0,
        trait_headings=headings, trait_rows=cells, galleries=galleries, left_out=left_out, album=album,
        n_images=8, credits=credits, files=files,
    )  # fmt: skip


def facts_of(traits: pl.DataFrame, results: pl.DataFrame) -> list[tuple[str, str]]:
    """What was ranked, as (name, value) pairs."""
    first = results.row(0, named=True)
    n_train = results["n_train"].max()
    protocol = (
        "published (compat=saev)" if first["protocol"] == "saev" else "ties in expectation, unknown labels left out"
    )
    pairs = [
        ("Training", f"{first['train']}, {whole(n_train)} {first['unit']}s"),
        ("Test", f"{first['test']}, at most {whole(traits['n_test'].max())} {first['unit']}s whose trait is known"),
        (
            "Traits",
            f"{whole(traits['trait'].n_unique())}" + (f", labels={first['label_mode']}" if first["label_mode"] else ""),
        ),
        ("Layers", ", ".join(map(str, sorted(results["layer"].unique())))),
        ("Score of an image", f"{first['pool']} over its tokens" if first["pool"] else ""),
        ("Protocol", protocol),
    ]
    return [(name, value) for name, value in pairs if value]


def figures(results: pl.DataFrame, several_layers: bool, unit: str) -> list[tuple[str, str]]:
    """(figure, alternative text) of mAP over training units, and over prototypes."""
    rows = results.filter((pl.col("n_latents") == 1) & pl.col("map").is_not_null())
    if not len(rows):
        return []
    out = []
    for x, other, label in (
        ("n_train", "n_prototypes", f"training {unit}s"),
        ("n_prototypes", "n_train", "prototypes"),
    ):
        largest = rows.filter(pl.col(other) == pl.col(other).max().over("method", "layer"))
        names = [title_of(row, several_layers) for row in largest.iter_rows(named=True)]
        lines = largest.with_columns(pl.Series("line", names))
        colour = colours(sorted(set(names)))
        figure, axes = panel(5.4, height_for(sorted(set(names))))
        for name in sorted(set(names)):
            line = lines.filter(pl.col("line") == name).sort(x)
            axes.plot(line[x], line["map"], marker="o", markersize=3.5, color=colour[name], label=name, linewidth=1.4)
            if line["map_low"].null_count() == 0:
                axes.fill_between(
                    line[x], line["map_low"], line["map_high"], color=colour[name], alpha=0.12, linewidth=0
                )
        axes.axhline(float(rows["constant_map"].mean()), color="#666666", linestyle=":", linewidth=1)  # type: ignore[arg-type]
        axes.set(xscale="log", xlabel=f"{label} (log scale)", ylabel="mAP over traits")
        readable_log(axes.xaxis)
        add_legend(figure, sorted(set(names)))
        out.append(
            (data_uri(figure), f"mAP over the number of {label}, a line per method; the numbers are in results.csv")
        )
    return out


def best_methods(traits: pl.DataFrame) -> pl.DataFrame:
    """For each trait the SAE (without one, the baseline) with the highest mean AP over seeds, all prototypes and training units.

    First those whose lower end is furthest above the AP of a constant score.
    """
    rows = full(traits.filter((pl.col("labels") == "true") & (pl.col("n_latents") == 1)))
    if "dictionary" in rows.columns:
        rows = rows.filter(pl.col("dictionary").is_not_null())
    means = rows.group_by("trait", "method", "kind", "layer", maintain_order=True).agg(
        pl.col("test_ap", "ap_low", "prevalence", "constant_ap").mean(),
        pl.col("n_pos_test", "n_test", "prototype").first(),
    )
    trained = pl.col("kind") == "sae"
    best = means.sort(trained, "test_ap", descending=True, nulls_last=True).unique(
        "trait", keep="first", maintain_order=True
    )
    above = pl.col("ap_low") - pl.col("constant_ap")
    return best.sort(above, pl.col("test_ap") - pl.col("constant_ap"), descending=True, nulls_last=True)


def trait_cells(
    traits: pl.DataFrame, best: pl.DataFrame, several_layers: bool
) -> tuple[list[str], list[list[tuple[str, Any]]]]:
    """(headings, rows of (text, value to sort by)) of the table of traits."""
    single = (pl.col("n_latents") == 1) | (pl.col("kind") == "supervised")
    rows = full(traits.filter((pl.col("labels") == "true") & single))
    rows = rows.with_columns(pl.Series("line", [title_of(row, several_layers) for row in rows.iter_rows(named=True)]))
    lines = list(dict.fromkeys(rows["line"]))
    means = rows.group_by("trait", "line").agg(pl.col("test_ap").mean())
    by_trait = {(trait, line): ap for trait, line, ap in means.iter_rows()}
    known = rows.unique("trait", maintain_order=True).select("trait", "n_pos_test", "prevalence")
    order = [*best["trait"], *(trait for trait in known["trait"] if trait not in set(best["trait"]))]
    counts = {trait: (n, prevalence) for trait, n, prevalence in known.iter_rows()}
    table = []
    for trait in order:
        n, prevalence = counts[trait]
        aps = [by_trait.get((trait, line)) for line in lines]
        numbers = [(MISSING, "") if ap is None else (f"{ap:.3f}", ap) for ap in aps]
        table.append([(trait, trait), (whole(n), n), (f"{prevalence:.3f}", prevalence), *numbers])
    return ["trait", "positives", "prevalence", *lines], table


def galleries_of(
    best: pl.DataFrame,
    images_of_traits: pl.DataFrame,
    album: Album,
    store: ActivationStore,
    members: Mapping[tuple[str, int], Dictionary],
    names: Mapping[tuple[str, int], Mapping[int, str]],
) -> list[dict[str, Any]]:
    """The pictures of the first traits."""
    out = []
    for row in best.head(MOST).iter_rows(named=True):
        shown = images_of_traits.filter(
            (pl.col("trait") == row["trait"]) & (pl.col("method") == row["method"]) & (pl.col("layer") == row["layer"])
        )
        if not len(shown):
            continue
        latent = int(shown["prototype"][0])
        dictionary, upper = members.get((row["method"], row["layer"])), float(shown["score"].max() or 0)  # type: ignore[arg-type]
        title, strips = titled(latent, names.get((row["method"], row["layer"]), {})), []
        for what, text in (("top", ""), ("missed", "have the trait, lowest scores:")):
            pictures = [
                (picture(one, latent, upper, album, store, row["layer"], dictionary), one["has"])
                for one in shown.filter(pl.col("what") == what).sort("rank").iter_rows(named=True)
            ]
            strips.append((text, pictures))
        low = "" if row["ap_low"] is None else f" (95 %: from {row['ap_low']:.3f})"
        out.append(
            {"trait": row["trait"], "method": row["method"], "latent": title, "ap": f"{row['test_ap']:.3f}{low}",
             "prevalence": f"{row['prevalence']:.3f}", "n_pos": whole(row["n_pos_test"]), "n_test": whole(row["n_test"]),
             "strips": strips, "highest": digits(upper), "half": digits(upper / 2),
             "marked": any(one.grid for _, pictures in strips for one, _ in pictures)}
        )  # fmt: skip
    return out


def picture(
    row: Mapping[str, Any],
    latent: int,
    upper: float,
    album: Album,
    store: ActivationStore,
    layer: int,
    dictionary: Dictionary | None,
) -> Shown:
    """A photo with the map of a latent; without one where the image has no grid, or the dictionary fewer latents."""
    example, codes = row["example"], None
    if dictionary is not None and latent < dictionary.n_latents and grid(store, example) is not None:
        codes = heatmaps(dictionary, store, layer, example, [latent])[0]
    return album.shown(example, digits(row["score"]), codes, upper)

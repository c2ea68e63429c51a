"""contrast.html: the results of `saev contrast`. One file without network; a script draws rankings, photos and maps from its data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from saev.contrasts.page_data import ROWS, Shown, page_data
from saev.contrasts.page_tables import across_table, partners_table
from saev.contrasts.pipeline import ContrastResult
from saev.visuals.columns import MISSING, whole
from saev.visuals.contrast_table import cell, columns_of, ordered, title_of
from saev.visuals.page import write_page
from saev.visuals.pictures import Album, Images

SIDE = 224  # of photos: there are many


def write_contrast_page(
    path: str | Path,
    result: ContrastResult,
    *,
    images: Images | None = None,
    credits: Sequence[str] = (),
    files: Mapping[str, str | Path] | None = None,
    title: str = "Contrast",
) -> Path:
    """Write the page in one step and return its path. `images`: the source of the photos; None: a page without photos."""
    store, results = result.store, result.results
    layers = results["layer"].n_unique() > 1
    methods = [
        Shown(title_of({"layer": layer, "method": method}, layers), layer, method)
        for layer, method in dict.fromkeys((layer, method) for layer, method, _, _ in result.cards)
    ]
    album = Album(images, store, SIDE)
    used = sorted({int(i) for pair in result.pairs for group in (pair.a, pair.b, pair.third) for i in group})
    if images is not None:
        for example in shown_examples(result):
            album.add(example)
    grids, paths = grids_of(result, used), {i: str(store.examples["path"][i]) for i in used}
    columns, most = columns_of(results), min(ROWS, max(results["n_latents"].to_list()))
    data = (
        page_data(
            result.contrast,
            result.pairs,
            result.cards,
            methods,
            names_of(result.contrast),
            grids,
            paths,
            specimens_of(results),
        )
        if methods
        else ""
    )
    rows = [
        {
            "pair": f"{row['pair']} ({row['n_a']} and {row['n_b']} images)",
            "name": title_of(row, layers),
            "cells": [cell(column, row) for column in columns],
        }
        for row in ordered(results)
    ]
    return write_page(
        path, "contrast_page.html.j2", title=title, facts=facts_of(result), columns=columns, explanation=EXPLAINED, results=rows,
        data=data, n_rows=most, missing=MISSING, pool=results["pool"][0], across=across_table(result, layers),
        note=left_out(results, methods), partners=partners_table(result, layers), album=album, credits=credits, files=files,
    )  # fmt: skip


EXPLAINED = (
    "For each pair and method. AUROC, − random, L1, raw and null are chosen and measured on different images: where nothing "
    "separates the groups, they are on average 0.5, and − random 0."
)


def specimens_of(results: pl.DataFrame) -> dict[str, tuple[int, int]] | None:
    """By pair, the numbers of specimens (groups of images) in a and in b; None where images are not grouped."""
    if results["group"].null_count() == len(results):
        return None
    return {pair: (a, b) for pair, a, b in results.select("pair", "clusters_a", "clusters_b").iter_rows()}


def left_out(results: pl.DataFrame, methods: Sequence[Shown]) -> str:
    """Which methods have no rankings and pictures on the page."""
    n = results.select("layer", "method").unique().height
    if n == len(methods):
        return ""
    return (
        f"Of {n} methods the page shows the rankings of {len(methods)}: of each layer the dictionaries (of baselines alone, the "
        "baselines) whose best latents have the highest AUROC. The others are in contrast.parquet."
    )


def shown_examples(result: ContrastResult) -> list[int]:
    """The images that a card shows, by their number in the recording."""
    out = set()
    for (_, _, number, _), card in result.cards.items():
        pair = result.pairs[number]
        examples = [*pair.a.tolist(), *pair.b.tolist(), *pair.third.tolist()]
        out |= {examples[position] for row in card.rows.values() for position in row}
    return sorted(out)


def names_of(contrast: pl.DataFrame) -> dict[tuple[int, str], dict[int, str]]:
    """The names of annotated latents, by layer and method."""
    named: dict[tuple[int, str], dict[int, str]] = {}
    rows = contrast.filter(pl.col("name").is_not_null()).select("layer", "method", "latent", "name").unique()
    for layer, method, latent, name in rows.iter_rows():
        named.setdefault((layer, method), {})[latent] = name
    return named


def grids_of(result: ContrastResult, examples: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The grid of patches of each image; images without one are left out."""
    table = result.store.examples
    if not {"grid_h", "grid_w"} <= {*table.columns}:
        return {}
    height, width = table["grid_h"].to_list(), table["grid_w"].to_list()
    return {i: (int(height[i]), int(width[i])) for i in examples if height[i] and width[i]}


def facts_of(result: ContrastResult) -> list[tuple[str, str]]:
    """What was compared, as (name, value) pairs."""
    row = result.results.row(0, named=True)
    n_images = len({int(i) for pair in result.pairs for group in (pair.a, pair.b) for i in group})
    pairs = [
        ("Images", f"{row['dataset']}: {whole(n_images)} in {len(result.pairs)} pairs of groups"),
        ("Layers", ", ".join(map(str, sorted(result.results["layer"].unique())))),
        ("Code of an image", f"{row['pool']} over its {'patches' if row['tokens'] == 'patches' else row['tokens'] + ' tokens'}"),
        ("Compared within", f"each value of {row['strata']}" if row["strata"] else ""),
        ("Kept together", f"images of one {row['group']}" if row["group"] else ""),
    ]  # fmt: skip
    return [(name, value) for name, value in pairs if value]

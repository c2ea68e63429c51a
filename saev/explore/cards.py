"""What the page draws, as plain data: rows of photos with maps of one latent, and one photo with its patches' latents."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int64

from saev.explore.image import NONE, PatchLatents, patch_latents, strongest
from saev.explore.latent import chosen_images, column, histograms, neighbours
from saev.explore.opened import Opened
from saev.visuals.columns import digits
from saev.visuals.pictures import Album, as_bytes, packed


def photo(opened: Opened, album: Album, example: int) -> dict[str, Any]:
    """An image: example, path, its data URI (None without a photo), grid (None without patches) and label."""
    row = opened.codes.images.row(int(np.searchsorted(opened.examples, example)), named=True)
    shown = album.add(example)
    grid = (
        [row["grid_h"], row["grid_w"]] if row.get("grid_h") and opened.codes.manifest.first_patch is not None else None
    )
    source = album.uris[example] if shown else None
    return {
        "example": example,
        "path": row["path"],
        "src": source,
        "grid": grid,
        "label": str(row.get("class") or row["path"]),
    }


def gallery_card(opened: Opened, table: pl.DataFrame, latents: int = 6, n: int = 8) -> dict[str, Any]:
    """The images with the highest codes of so many latents of a table of latents, evenly from often to rarely firing."""
    shown = []
    for row in gallery_latents(table, latents).iter_rows(named=True):
        card = latent_card(opened, row["latent"], n, highest=True)
        shown.append({"latent": row["latent"], "about": line(row), "cells": next(iter(card["rows"].values()))})
    return {"kind": "gallery", "latents": shown}


def gallery_latents(table: pl.DataFrame, n: int) -> pl.DataFrame:
    """At most n rows of a table of latents that fire on an image, evenly from often to rarely firing."""
    order = table.filter(pl.col("images") > 0).sort("firings", descending=True)
    places = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int))
    return order[places.tolist()]


def latent_card(opened: Opened, latent: int, n: int = 8, highest: bool = False) -> dict[str, Any]:
    """The images of a latent by heading, each with its code and its map in bytes (255 at the latent's largest code); facts, histogram
    and neighbours of the latent. `highest`: the images with the highest codes alone."""
    rows, values = column(opened.codes, latent)
    upper = float(max(values.max(initial=0), 0))
    code_of = dict(zip(rows.tolist(), values.tolist(), strict=True))
    shown: dict[str, list[dict[str, Any]]] = {}
    cells: dict[int, dict[str, Any]] = {}
    images = chosen_images(rows, values, n)
    for heading, chosen in [*images.items()][: 1 if highest else None]:
        for row in chosen.tolist():
            if row not in cells:
                cells[row] = cell(opened, latent, int(opened.examples[row]), code_of[row], upper)
        shown[heading] = [cells[row] for row in chosen.tolist()]
    card = {"kind": "latent", "latent": latent, "upper": upper, "rows": shown}
    if highest:
        return card
    return {**card, "facts": facts(opened.latents.row(latent, named=True)), "near": near(opened, latent, (rows, values)),
            "histograms": [histogram_card(*one) for one in histograms(opened.codes, latent)]}  # fmt: skip


def histogram_card(heading: str, unit: str, bins: pl.DataFrame) -> dict[str, Any]:
    """A histogram with its heading and the unit that it counts; no bars where it is empty."""
    ends = [bins["low"].item(0), bins["high"].item(-1)] if len(bins) else [0.0, 0.0]
    return {"heading": heading, "unit": unit, "bars": bins["n"].to_list(), "range": ends}


def cell(opened: Opened, latent: int, example: int, code: float, upper: float) -> dict[str, Any]:
    """One image of a latent."""
    one = photo(opened, opened.album, example)
    codes = opened.codes.map(latent, example) if one["grid"] else None
    return {**one, "code": digits(code), "map": None if codes is None else packed(as_bytes(codes, upper))}


def image_card(opened: Opened, example: int, top: int = 16) -> dict[str, Any]:
    """`image_data` of an encoded image, with the `top` largest codes of each of its patches."""
    one, patches = photo(opened, opened.large, example), patch_latents(opened.codes, example, top)
    return image_data(opened, one, patches, strongest(opened.codes, example), opened.errors(example))


def image_data(
    opened: Opened,
    one: Mapping[str, Any],
    patches: PatchLatents | None,
    strong: tuple[np.ndarray, np.ndarray],
    errors: Float[np.ndarray, "grid_h grid_w"] | None,
) -> dict[str, Any]:
    """A photo and the largest codes of its patches, by patch: latents (uint16 positions in `names`, of which the first means none) and
    codes (bytes; 255 at the largest of the image); what is known of these latents; the strongest latents of the image; and the error of
    its reconstruction: the mean over patches, and by patch in bytes, 255 at `upper`."""
    whole, codes = strong
    rows = [[int(j), round(float(code), 4)] for j, code in zip(whole, codes, strict=True)]
    card = {"kind": "image", **one, "strongest": rows}
    if patches is None:
        return {**card, "grid": None, "about": about(opened, whole)}
    upper = float(patches.codes.max(initial=0))
    names = np.unique(np.append(patches.latents.astype(np.int64), NONE))  # NONE first
    error = None
    if errors is not None and not np.isnan(errors).all():
        most = float(np.nanmax(errors))
        error = {"mean": digits(float(np.nanmean(errors))), "upper": most, "map": packed(as_bytes(errors, most))}
    return {
        **card, "top": patches.latents.shape[1], "upper": upper, "names": names.tolist(), "error": error,
        "about": about(opened, np.unique(np.concatenate([names[1:], whole]))),
        "latents": packed(np.searchsorted(names, patches.latents).astype(np.uint16)), "codes": packed(as_bytes(patches.codes, upper)),
    }  # fmt: skip


def pair_card(first: Opened, second: Opened, latent: int, other: int, n: int = 8) -> dict[str, Any]:
    """The images with the highest codes of a latent of one dictionary, and of a latent of another."""
    sides = []
    for opened, number in ((first, latent), (second, other)):
        card = latent_card(opened, number, n, highest=True)
        row = opened.latents.row(number, named=True)
        sides.append(
            {"latent": number, "about": line(row), "cells": next(iter(card["rows"].values())), "name": opened.one.name}
        )
    return {"kind": "pair", "sides": sides}


def about(opened: Opened, latents: Int64[np.ndarray, " n"]) -> dict[str, str]:
    """Latent -> its name, class, trait and frequency in a line."""
    rows = opened.latents[latents.tolist()].iter_rows(named=True)
    return {str(row["latent"]): line(row) for row in rows}


def near(opened: Opened, latent: int, fires: tuple[np.ndarray, np.ndarray]) -> dict[str, list[tuple[int, float, str]]]:
    """The neighbours of a latent, whose `column` is given, by heading: latent, cosine and what is known of it."""
    table = neighbours(opened.unit_atoms, opened.pooled, opened.norms, latent, fires)
    texts = about(opened, table["latent"].to_numpy())
    headings = {
        "atom": "Neighbours by cosine of atoms",
        "co-firing": "Neighbours by co-firing (cosine of codes over images)",
    }
    return {
        heading: [
            (j, round(cosine, 3), texts[str(j)])
            for j, cosine in table.filter(by=by).select("latent", "cosine").iter_rows()
        ]
        for by, heading in headings.items()
    }


def line(row: Mapping[str, Any]) -> str:
    """A latent's name, best class, trait (of those whose AP's lower end exceeds that of a constant score) and frequency."""
    shown = ["name", "class"]
    if (
        row.get("trait_gain") is not None
        and row["trait_gain"] + (row["trait_low"] or row["trait_ap"]) > row["trait_ap"]
    ):
        shown.append("trait")
    texts = [str(row[name]) for name in shown if row.get(name)]
    return "; ".join([*texts, f"{digits(100 * row['frequency'], 2)} % of tokens"])


def facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of one latent, a row of the table of latents: (what, value)."""
    labels = {
        "name": "name", "frequency": "fraction of tokens", "images": "images on which it fires", "mean_value": "mean code where it fires",
        "max_value": "largest code", "class": "best class", "class_ap": "AP of the class", "class_low": "AP, lower end",
        "trait": "best trait", "trait_ap": "AP of the trait", "trait_low": "AP, lower end", "trait_gain": "AP above a constant score",
        "pair": "separates best", "p_family": "p, family-wise", "auroc": "AUROC", 
        "stability": "fraction of other dictionaries with a partner",
    }  # fmt: skip
    known = [(text, row[key]) for key, text in labels.items() if row.get(key) is not None]
    return [(text, written(value)) for text, value in known]


def written(value: Any) -> str:
    """A number with three digits, an integer with commas, or a text."""
    return digits(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

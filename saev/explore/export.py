"""The views Latents, Latent and Image of chosen latents and images as one page that needs no server."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saev.explore.cards import gallery_latents, image_card, latent_card, line
from saev.explore.opened import Opened
from saev.progress import bar
from saev.visuals import page
from saev.visuals.pictures import Album

HERE = Path(__file__).parent
LATENTS, IMAGES = 24, 64  # where none are named
RANGE = re.compile(r"(\d+)(?:-(\d+))?")
BEST = (  # by which latents are chosen: the column of `latent_table`, and whether a latent is among the best by it
    ("class_low", pl.col("class_low").is_not_null()),
    ("trait_gain", pl.col("trait_gain") > 0),
    ("p_family", pl.col("p_family") <= 0.05),
)


def numbers(key: str, text: str, known: Sequence[int]) -> list[int]:
    """The numbers of a list such as 3,17,100-120, without repeats, in the order given.

    ValueError for another text, for a single number that is not among `known`, and for a range without any of them.
    """
    chosen: dict[int, None] = {}
    available = set(known)
    for part in text.split(","):
        match = RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{key}={text}: give numbers and ranges, e.g. {key}=3,17,100-120.")
        low, high = int(match[1]), int(match[2] or match[1])
        inside = [number for number in range(low, min(high, max(available)) + 1) if number in available]
        if not inside:
            raise ValueError(f"{key}={part}: there is none; they are {min(available)} to {max(available)}.")
        chosen |= dict.fromkeys(inside)
    return [*chosen]


def default_latents(table: pl.DataFrame, n: int = LATENTS) -> list[int]:
    """Latents of a `latent_table`: those with a name, and up to n in all of the best for a class, for a trait and for a pair of groups
    (family-wise p of at most 0.05) in turn, and others evenly from often to rarely firing."""
    names = table.filter(pl.col("name").is_not_null())["latent"].to_list() if "name" in table.columns else []
    best = [
        table.filter(among).sort(column, descending=column != "p_family")
        for column, among in BEST
        if column in table.columns
    ]
    rankings = [one["latent"].to_list()[:n] for one in best] + [gallery_latents(table, n)["latent"].to_list()]
    turns = [ranking[i] for i in range(n) for ranking in rankings if i < len(ranking)]
    return [*dict.fromkeys([*names, *list(dict.fromkeys(turns))[: max(n - len(names), 0)]])]


def default_images(opened: Opened, n: int = IMAGES) -> list[int]:
    """Evenly chosen encoded images, by their number in the recording."""
    places = np.unique(np.linspace(0, len(opened.examples) - 1, min(n, len(opened.examples))).astype(np.int64))
    return opened.examples[places].tolist()


def write_page(
    opened: Opened, path: Path, latents: Sequence[int], images: Sequence[int], title: str, credits: str = ""
) -> Path:
    """Write the page in one step and return its path; photos are embedded, small ones of latents and larger ones of images."""
    photos: dict[str, str] = {}

    def shared(card: dict[str, Any], album: Album) -> dict[str, Any]:
        """The card with the key of its photo in place of the photo."""
        if card["src"] is not None:
            key = f"{album.side}-{card['example']}"
            photos[key] = card["src"]
            return {**card, "src": key}
        return card

    cards, pictures, about = {}, {}, {}
    with bar("Page", len(latents) + len(images), visible=True) as advance:
        for latent in latents:
            card = latent_card(opened, latent)
            card["rows"] = {
                name: [shared(cell, opened.album) for cell in cells] for name, cells in card["rows"].items()
            }
            cards[latent] = card
            about |= {str(latent): line(opened.latents.row(latent, named=True))}
            advance(1)
        for example in images:
            card = shared(image_card(opened, example), opened.large)
            about |= card.pop("about")
            pictures[example] = card
            advance(1)
    table = opened.latents.filter(pl.col("latent").is_in(list(latents))).select(
        pl.exclude("log10_frequency", "log10_value")
    )
    order = pl.DataFrame({"latent": list(latents)}, schema={"latent": pl.Int64})
    table = order.join(table, "latent", maintain_order="left")
    data = {
        "photos": photos,
        "latents": cards,
        "images": pictures,
        "about": about,
        "columns": table.columns,
        "rows": table.rows(),
    }
    facts = [
        ("latents", f"{len(latents)} of {opened.codes.n_latents:,}"),
        ("images", f"{len(images)} of {len(opened.examples):,}"),
    ]
    widget, css, script = ((HERE / name).read_text() for name in ("widget.js", "widget.css", "export.js"))
    return page.write_page(
        path, "explore_page.html.j2", album=Album(None, opened.album.store), credits=[credits], title=title, facts=facts,
        data=as_json(data), widget=widget, css=css, script=script,
    )  # fmt: skip


def as_json(data: Any) -> str:
    """JSON for a script element: without `<`, which could end it, and with null for NaN."""
    return json.dumps(finite(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def finite(value: Any) -> Any:
    """The value with None for numbers that are not finite."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value

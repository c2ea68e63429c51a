"""The page's tables of latents over several pairs, and of their partners in other runs."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from saev.annotations import titled
from saev.contrasts.methods import BASELINES
from saev.contrasts.pipeline import ContrastResult
from saev.visuals.columns import MISSING, digits
from saev.visuals.contrast_table import title_of

ACROSS = 40  # latents in the table over several pairs
ACROSS_EXPLAINED = (
    "The gap of the means in pooled standard deviations (positive: higher in the first group), starred where the latent "
    "separates the pair (family-wise p at most alpha). Latents that separate most pairs in one direction stand first; “smallest” is "
    "the gap that all pairs reach."
)

PARTNERS_EXPLAINED = (
    "For each separating latent its partner in every other dictionary, no latent being the partner of two: number, correlation of the "
    "images’ codes, Jaccard index of both latents’ 20 top images. Starred, and counted, where the correlation is at least 0.5 and "
    "larger than that with any latent when the images are permuted."
)


def latent_title(row: Mapping[str, Any], layers: bool) -> str:
    """A row's latent with its name, and the method."""
    return f"{titled(row['latent'], {row['latent']: row['name'] or ''})} of {title_of(row, layers)}"


def across_table(result: ContrastResult, layers: bool) -> dict[str, Any] | None:
    """The latents of the shown methods that separate most pairs: how many, and the gap of means in each pair."""
    if not len(result.across):
        return None
    alpha: float = result.results["alpha"].to_list()[0]
    chosen = result.across.filter(~pl.col("kind").is_in(BASELINES))
    chosen = chosen.sort("separated", "smallest_d", "median_d", descending=True).head(ACROSS)
    if not len(chosen):
        return None
    keys = ["layer", "method", "latent"]
    by_pair = result.contrast.join(chosen.select(keys), keys, "semi").select(*keys, "pair", "d", "p_family")
    gaps = {(layer, method, latent, pair): (d, p) for layer, method, latent, pair, d, p in by_pair.iter_rows()}
    rows = []
    for row in chosen.iter_rows(named=True):
        key = row["layer"], row["method"], row["latent"]
        of_pairs = [gaps[*key, pair.name] for pair in result.pairs]
        cells = [MISSING if d is None else f"{d:+.2f}" + ("*" if p <= alpha else "") for d, p in of_pairs]
        rows.append([latent_title(row, layers), str(row["separated"]), digits(row["smallest_d"]), *cells])
    return {
        "note": ACROSS_EXPLAINED,
        "headings": ["pairs", "smallest", *(pair.name for pair in result.pairs)],
        "rows": rows,
    }


def partners_table(result: ContrastResult, layers: bool) -> dict[str, Any] | None:
    """The latents that have partners in most runs, with each partner and its correlation."""
    table = result.partners
    if not len(table):
        return None
    runs = list(dict.fromkeys(table["run"]))
    keys = ["layer", "method", "latent", "name"]
    counts = table.group_by(keys, maintain_order=True).agg(pl.col("matched").sum(), pl.col("correlation").mean())
    counts = counts.sort("matched", "correlation", descending=True, maintain_order=True).head(ACROSS)
    by_run = {
        (layer, method, latent, run): (
            None if partner is None else titled(partner, {partner: name or ""}),
            correlation,
            jaccard,
            matched,
        )
        for layer, method, latent, _, run, partner, name, correlation, jaccard, matched in table.select(
            *keys, "run", "partner", "partner_name", "correlation", "jaccard", "matched"
        ).iter_rows()
    }
    rows = []
    for row in counts.iter_rows(named=True):
        of_runs = [by_run.get((row["layer"], row["method"], row["latent"], run)) for run in runs]
        cells = [
            MISSING
            if one is None or one[0] is None
            else f"{one[0]}: {one[1]:.2f}, {one[2]:.2f}" + ("*" if one[3] else "")
            for one in of_runs
        ]
        rows.append(
            [latent_title(row, layers), f"{row['matched']} of {sum(one is not None for one in of_runs)}", *cells]
        )
    return {"note": PARTNERS_EXPLAINED, "headings": ["found in", *runs], "rows": rows}

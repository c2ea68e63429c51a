"""Which latents to show: by rule (neither dead nor dense, not the weakest, spread over how often they fire), or those of classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from saev.files import read_parquet
from saev.visuals.columns import percent
from saev.visuals.settings import Choice
from saev.visuals.top_images import Survey

MOST_CLASSES = 24  # where no classes are named


def choose_latents(survey: Survey, rule: Choice) -> Int64[np.ndarray, " chosen"]:
    """Up to `rule.n` latents, rarest first: evenly spaced in the order of firing frequency among those the rule admits."""
    frequency = survey.frequency
    between = (frequency >= 10**rule.rarest) & (frequency <= 10**rule.commonest)
    admitted = np.flatnonzero(between & (survey.images.numpy() >= rule.images))
    if not len(admitted):
        return admitted
    values = survey.mean_value[admitted]
    strong = admitted[values >= np.quantile(values, rule.weakest)]
    ordered = strong[np.argsort(frequency[strong], kind="stable")]
    n = min(rule.n, len(ordered))
    return ordered[(2 * np.arange(n) + 1) * len(ordered) // (2 * n)]  # the middles of n equal spans


def read_classes(probe: str | os.PathLike | pl.DataFrame) -> pl.DataFrame:
    """Classes and their best latents (true labels) of a probe run's directory, or of its table of classes."""
    if not isinstance(probe, pl.DataFrame):
        path = Path(probe) / "classes.parquet"
        if not path.is_file():
            raise ValueError(f"probe={probe}: it has no {path.name}; give the directory that `saev probe` printed.")
        probe = read_parquet(path)
    return probe.filter(pl.col("labels") == "true", pl.col("latent").is_not_null())


def latents_of_classes(table: pl.DataFrame, member: str, classes: Sequence[str] | None = None) -> dict[int, str]:
    """The best latents of a dictionary's classes, with captions; a latent that is best for several classes occurs once."""
    rows = table.filter(pl.col("member") == member)
    if rows.is_empty():
        known = ", ".join(sorted(set(table["member"])))
        raise ValueError(f"probe=: it has no class of {member}; it has those of {known}.")
    rows = rows.with_columns(
        pl.col(end) if end in rows.columns else pl.lit(None).alias(end) for end in ("ap_low", "ap_high")
    )
    best = rows.sort("ap_low", "ap", descending=True, nulls_last=True).head(MOST_CLASSES).to_dicts()
    if classes is not None:
        by_class = {row["class"]: row for row in rows.to_dicts()}
        if unknown := [str(name) for name in classes if name not in by_class]:
            raise ValueError(
                f"classes: {member} has no latent for {', '.join(unknown)}; choose among {sorted(by_class)}."
            )
        best = [by_class[name] for name in classes]
    captions: dict[int, list[str]] = {}
    for row in best:
        captions.setdefault(int(row["latent"]), []).append(caption(row))
    return {latent: "; ".join(texts) for latent, texts in captions.items()}


def caption(row: Mapping[str, Any]) -> str:
    """The class of a row, `not` where the latent is negatively associated, the average precision with its interval over images, the
    validation images of the class, and the fraction of tokens that are of it."""
    negated = "not " if row["sign"] < 0 else ""
    if row["ap"] is None:
        return f"{negated}{row['class']}"
    ends = f" [{row['ap_low']:.2f}, {row['ap_high']:.2f}]" if row["ap_low"] is not None else " [–]"
    return f"{negated}{row['class']}, AP {row['ap']:.2f}{ends}, {row['n_images_val']} images, {percent(row['prevalence'])} % of tokens"

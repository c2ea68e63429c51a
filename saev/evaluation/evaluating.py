"""Dictionaries measured on recorded activations, and spliced back into their backbone.

dictionaries ──select_tokens──▶ one pass per recording and layer ──measure, splice──▶ a row per dictionary
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saev.device import check_device, resolve_device
from saev.evaluation.measuring import measure
from saev.evaluation.settings import EvaluateSettings
from saev.evaluation.splicing import Splicing
from saev.evaluation.stability import Stability, check_comparable, compare, write_stability
from saev.evaluation.stable_dictionary import series, write_stable
from saev.images.source import ImageSource
from saev.runs.tables import write_table
from saev.saved import (
    Dictionaries,
    Recording,
    SavedDictionary,
    find_dictionaries,
    select_tokens,
    shared_passes,
    training_tokens,
)
from saev.scoring.against import reference_dictionaries, seed_table
from saev.shards.selected_tokens import Selection
from saev.visuals.columns import failed, finite
from saev.visuals.frontier import frontier, log_not_drawn, series_of
from saev.visuals.style import save
from saev.vits.source import VitSource

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A row per dictionary; with stability, tables of pairs of dictionaries and of latents; the files written; and where dictionaries
    differ by seed only, a row per group of such dictionaries.
    """

    results: pl.DataFrame
    stability: Stability | None
    directory: Path | None
    files: tuple[Path, ...] = ()
    seeds: pl.DataFrame | None = None


def evaluate(
    dictionaries: Dictionaries,
    recording: Recording | None = None,
    settings: EvaluateSettings = EvaluateSettings(),  # noqa: B008 it is frozen
    *,
    layer: int | None = None,
    images: ImageSource | None = None,
    vit: VitSource | None = None,
    directory: str | os.PathLike | None = None,
    activations: str | os.PathLike | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure dictionaries, each on what it was trained on unless `recording` and `layer` say otherwise.

    Args:
        dictionaries: folders of dictionaries, runs or sweeps, or a mapping of names to dictionaries in memory.
        images, vit: the images and the backbone that were recorded; both or neither. With them reconstructions are put
            back into the backbone (splice_* in the results).
        directory: where to write results.parquet, results.csv, frontier.png, seeds.* and the tables of `write_stability`; None: nothing
            is written.
        activations: the folder of recordings where `recording` is None; None: $SAEV_OUTPUTS/activations.

    Raises ValueError, before anything is computed, for what does not fit.
    """
    check_device(settings.device)
    saved = find_dictionaries(dictionaries)
    reference = reference_dictionaries(settings.against, saved)
    splicing = Splicing.prepare(images, vit, settings)
    selections = {
        one.name: select_tokens(one, recording, activations, layer, settings.tokens, settings.examples) for one in saved
    }
    if settings.stability:
        check_comparable(saved, selections, settings)
        if settings.stability_pooled is not None and directory is None:
            raise ValueError(
                f"stability_pooled={settings.stability_pooled}: give the directory to save dictionaries in, directory=."
            )
    sites = splicing.sites(saved, selections) if splicing else {}
    device = resolve_device(settings.device)
    members = {one.name: one.load(device) for one in saved}
    pooled = series(saved, members) if settings.stability_pooled is not None else []
    backbone = splicing.vit.load(device) if splicing else None
    rows = {one.name: describe(one, selections[one.name]) for one in saved}
    for group in shared_passes(selections):
        selection = selections[group[0]]
        log.info(
            "%s layer %d, %d images: %s", selection.store.name, selection.layer, len(selection.images), "; ".join(group)
        )
        together = {name: members[name] for name in group}
        measured = measure(
            together, selection, settings.batch_size, device, settings.correlation_latents, progress, settings.bootstrap,
            reference, settings.permutations,
        )  # fmt: skip
        if reference and not {*reference} <= {*group}:
            log.warning(
                "not compared with %s, which is evaluated on other tokens: %s", settings.against, "; ".join(group)
            )
        spliced = {}
        if splicing and backbone:
            spliced = splicing.rows(splicing.splice(together, sites, selection, backbone), reference)
        for name in group:
            rows[name] |= measured[name] | spliced.get(name, {})
    if settings.gap and settings.examples == "held_out":
        training = {one.name: tokens for one in saved if (tokens := training_tokens(one, selections[one.name]))}
        for group in shared_passes(training):
            together = {name: members[name] for name in group}
            measured = measure(together, training[group[0]], settings.batch_size, device, 0, progress)
            for name in group:
                nmse = measured[name]["nmse"]
                rows[name] |= {"nmse_train": nmse, "gap": rows[name]["nmse"] - nmse}
    table = [rows[one.name] for one in saved]
    if settings.at_l0 is not None:
        keys = sorted({"train_dataset"}.union(*(one.config.get("hyperparameters", {}) for one in saved)))
        for row, nmse in zip(table, nmse_at(table, settings.at_l0, keys), strict=True):
            row["nmse_at_l0"] = nmse
    results, stability = pl.DataFrame(table, infer_schema_length=None), None
    seeds = seed_table(rows, saved, ("nmse", "l0"), reference)
    if settings.stability:
        stability = compare(saved, members, selections, settings, None, device, progress)
        results = results.join(stability.dictionaries, "member", how="left", maintain_order="left")
    if directory is None:
        return Evaluation(results, stability, None, seeds=seeds)
    directory = Path(directory)
    files = [write_table(directory, "results", results)]
    if (figure := frontier(table)) is not None:
        save(figure, directory / "frontier.png")
        files.append(directory / "frontier.png")
    log_not_drawn(table)
    if seeds is not None:
        files.append(write_table(directory, "seeds", seeds))
    if stability is not None:
        files += write_stability(stability, directory)
        if settings.stability_pooled is not None:
            files += write_stable(pooled, members, stability.partners, settings.stability_pooled, directory)
    return Evaluation(results, stability, directory, tuple(files), seeds)


def describe(one: SavedDictionary, selection: Selection) -> dict[str, Any]:
    """A row's columns beside its numbers: the dictionary, how it was trained, and on what it is evaluated."""
    hyperparameters = one.config.get("hyperparameters", {})
    return {
        "member": one.name,
        "dictionary": str(one.path or one.name),
        **{key: value for key, value in hyperparameters.items() if not isinstance(value, dict | list)},
        "l0_target": hyperparameters.get("l0_target"),
        "d_sae": one.config["n_latents"],
        "failed": bool(one.provenance.get("failed")),
        "train_dataset": one.provenance.get("dataset"),
        "dataset": selection.store.name,
        "layer": selection.layer,
        "tokens": selection.tokens,
        "n_images": len(selection.images),
    }


def nmse_at(rows: Sequence[Mapping[str, Any]], l0: float, settings: Sequence[str]) -> list[float | None]:
    """The NMSE of each row's series at an L0, interpolated in log L0; None where the series has no L0 below or above it.

    A series has equal `settings` but for k, sparsity and l0_target; diverged dictionaries are in none.

    >>> rows = [{"k": k, "l0": k, "nmse": nmse} for k, nmse in ((8, 0.4), (32, 0.2))]
    >>> nmse_at(rows, 16, []), nmse_at(rows, 64, [])
    ([0.30000000000000004, 0.30000000000000004], [None, None])
    """
    curves: dict[Any, list[tuple[float, float]]] = {}
    series = list(zip(series_of(rows, settings), (row.get("seed") for row in rows), strict=True))
    for name, row in zip(series, rows, strict=True):
        if not failed(row) and finite(row, "nmse") and row["l0"] > 0:
            curves.setdefault(name, []).append((np.log(row["l0"]), row["nmse"]))
    at = {
        name: float(np.interp(np.log(l0), *zip(*sorted(curve), strict=True), left=np.nan, right=np.nan))
        for name, curve in curves.items()
    }
    return [
        None if failed(row) or np.isnan(at.get(name, np.nan)) else at[name]
        for name, row in zip(series, rows, strict=True)
    ]

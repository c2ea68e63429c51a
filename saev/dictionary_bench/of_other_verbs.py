"""The measures of a bench that `saev evaluate` and `saev probe` compute."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.measuring import DictionaryResult, absent
from saev.dictionary_bench.preparing import BenchImages, Selections
from saev.dictionary_bench.settings import BenchSettings
from saev.evaluation.compared import without_seed
from saev.evaluation.evaluating import evaluate
from saev.evaluation.settings import EvaluateSettings
from saev.probing.pipeline import probe
from saev.probing.settings import ProbeSettings
from saev.saved import Recording, SavedDictionary, shared_passes

EVALUATED = ("l0", "dead", "dense_above_0.1", "coherence")
SPLICED = "splice_recovered_patches"
PROBED = {"probe_map": "map", "probe_r": "r", "probe_coverage": "coverage_0.3"}
STABLE = ("stability_cosine", "stability_start", "stability_correlation")


def measures_of_verbs(
    saved: Sequence[SavedDictionary],
    chosen: Selections,
    recording: Recording | None,
    layer: int | None,
    activations: str | os.PathLike | None,
    settings: BenchSettings,
    images: BenchImages | None,
    device: str,
    progress: bool,
) -> dict[str, DictionaryResult]:
    """Of each dictionary EVALUATED, SPLICED, STABLE and PROBED, but what the settings leave out; `latents` is its table of stability.

    images: for SPLICED; None: left out.
    """
    wanted = {*EVALUATED, SPLICED, *STABLE, *PROBED} - {*settings.without}
    seeds = len({without_seed(one) for one in saved}) < len(saved)
    stable = seeds and bool(wanted & {*STABLE})
    options = EvaluateSettings(
        settings.tokens, settings.examples, settings.batch_size, correlation_latents=0, bootstrap=settings.bootstrap, gap=False,
        stability=stable, stability_among="seeds", splice_images=settings.splice_images, device=device,
    )  # fmt: skip
    spliced = images is not None and SPLICED in wanted
    given = {"images": images.recorded, "vit": images.vit} if images and spliced else {}
    evaluated = evaluate(
        list(saved), recording, options, layer=layer, activations=activations, progress=progress, **given
    )
    rows = {row["member"]: row for row in evaluated.results.iter_rows(named=True)}
    probed = probe_rows(saved, chosen, settings, device) if wanted & {*PROBED} else {}
    stability = evaluated.stability if stable else None
    out = {}
    for one in saved:
        n_latents = int(one.config["n_latents"])
        measures = {
            name: from_row(rows[one.name], name, name, n=None if name == "l0" else n_latents) for name in EVALUATED
        }
        measures[SPLICED] = (
            from_row(rows[one.name], SPLICED, SPLICED, null=0.0, n=rows[one.name].get("splice_images"))
            if spliced
            else absent("needs splice=true, images= and vit=")
        )
        for name in PROBED:
            measures[name] = probed.get((one.name, name)) or absent("the recording has no labels of patches")
        tables = {}
        for name in STABLE:
            measures[name] = absent("needs two dictionaries that differ by their seed alone")
        if stability is not None:
            row = stability.dictionaries.row(by_predicate=pl.col("member") == one.name, named=True)
            tables["latents"] = stability.latents.filter(member=one.name)
            for name in STABLE:
                if row.get(name) is not None:
                    measures[name] = Measured(
                        row[name], none_is_nan(row.get(name.replace("stability", "tokens"))), len(tables["latents"])
                    )
        out[one.name] = DictionaryResult({name: measures[name] for name in measures if name in wanted}, tables)
    return out


def probe_rows(
    saved: Sequence[SavedDictionary], chosen: Selections, settings: BenchSettings, device: str
) -> dict[tuple[str, str], Measured]:
    """PROBED by dictionary and measure, of recordings with labels of patches."""
    out = {}
    options = ProbeSettings(
        tokens="patches", ignore_labels=settings.ignore_labels, bootstrap=settings.bootstrap, seed=settings.seed
    )
    for group in shared_passes(chosen):
        selection = chosen[group[0]]
        if selection.store.token_labels is None:
            continue
        result = probe(
            [one for one in saved if one.name in group], selection.store, options, layer=selection.layer, device=device
        )
        table = {(row["member"], row["labels"]): row for row in result.results.iter_rows(named=True)}
        for member in group:
            true, permuted = table[member, "true"], table[member, "permuted"]
            aps = (
                result.classes.filter(member=member, labels="true")["ap"]
                .cast(pl.Float64)
                .fill_null(float("nan"))
                .to_numpy()
            )
            units = {"probe_map": aps, "probe_coverage": np.where(np.isnan(aps), np.nan, aps >= 0.3)}
            for name, key in PROBED.items():
                null = none_is_nan(permuted.get(key))
                out[member, name] = from_row(true, key, name, null, units.get(name, ()), true["n_classes"])
    return out


def from_row(
    row: Mapping[str, Any],
    key: str,
    name: str,
    null: float = float("nan"),
    units: Sequence[float] | np.ndarray = (),
    n: int | None = None,
) -> Measured:
    """A column of a table as a measure, with the ends of its interval where the table has them."""
    if row.get(key) is None:
        return absent(f"{name} could not be measured")
    ends = tuple(none_is_nan(row.get(f"{key}_{end}")) for end in ("low", "high"))
    counted = row.get("n_images") if n is None else n
    return Measured(
        float(row[key]), null, int(counted or 0), ends=(ends[0], ends[1]), units=np.asarray(units, np.float64)
    )


def none_is_nan(value: float | None) -> float:
    """The value, NaN for None."""
    return float("nan") if value is None else float(value)

"""The tables of one layer: every latent of every method and pair, their summary, and what the page shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32

from saev.annotations import with_names
from saev.contrasts import best
from saev.contrasts.across_pairs import across_pairs
from saev.contrasts.classifier import FACTORS, Classifier, classify
from saev.contrasts.methods import Method
from saev.contrasts.settings import ContrastSettings
from saev.contrasts.statistics import PairStatistics, n_batches, pair_statistics
from saev.contrasts.study import Study
from saev.progress import bar
from saev.scoring.scorers import TYPES

REFERENCE = "random_vectors"  # the kind that every method's rows are compared with


def layer_tables(
    study: Study,
    methods: Sequence[Method],
    raw: Float32[np.ndarray, "images d_model"],
    settings: ContrastSettings,
    where: Mapping[str, Any],
) -> dict[str, pl.DataFrame]:
    """The tables contrast, results, across, classifier and path. `where`: columns that are the same in all rows."""
    statistics = {method.name: statistics_of(method, study, settings) for method in methods}
    # the last one: those that were fitted for this comparison come after those that were given
    reference = next((method for method in reversed(methods) if method.kind == REFERENCE), None)
    tables: dict[str, list[pl.DataFrame]] = {"contrast": [], "results": [], "across": [], "classifier": [], "path": []}
    on_raw: dict[int, dict[str, Any]] = {}  # of each pair: the same for all methods
    for method in methods:
        constants = {"method": method.name, "kind": method.kind, **method.about, **where}
        of_pairs = statistics[method.name]
        for pair, one in zip(study.pairs, of_pairs, strict=True):
            tables["contrast"].append(with_constants(latent_rows(pair.name, one), constants, method.names))
        rows = []
        with bar(f"{method.name}, best latents and classifiers", len(study.pairs)) as advance:
            for number, one in enumerate(of_pairs):
                other = None
                if reference is not None and method is not reference:
                    other = best.Method(reference.scores, statistics[reference.name][number].fold_z)
                row = result_row(study, number, method, one, other, settings)
                if settings.classifier:
                    given = None if number in on_raw else raw
                    fitted = classify(
                        method.scores, given, study.sides[number], settings.folds, settings.bootstrap, settings.seed
                    )
                    columns = accuracy_columns(fitted)
                    on_raw.setdefault(number, {key: value for key, value in columns.items() if "_raw" in key})
                    row |= columns | on_raw[number]
                    tables["classifier"].append(
                        with_constants(weight_rows(row["pair"], fitted), constants, method.names)
                    )
                    tables["path"].append(with_constants(path_rows(row["pair"], fitted), constants))
                rows.append(row)
                advance(1)
        tables["results"].append(with_constants(pl.DataFrame(rows), constants, method.names))
        if len(study.pairs) > 1:
            columns = across_pairs(of_pairs, settings.alpha)
            table = pl.DataFrame({"latent": np.arange(method.n_latents), **columns}).filter(pl.col("separated") > 0)
            tables["across"].append(with_constants(table, constants, method.names))
    return {
        name: pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame() for name, parts in tables.items()
    }


def statistics_of(method: Method, study: Study, settings: ContrastSettings) -> list[PairStatistics]:
    """The statistics of a method's latents, one of each pair."""
    if not np.isfinite(method.scores if isinstance(method.scores, np.ndarray) else method.scores.data).all():
        raise ValueError(f"{method.name} has pooled codes that are NaN or infinite: leave it out, or train it again.")
    batches = n_batches(study.sides, settings.permutations + settings.bootstrap)
    with bar(method.name, batches * method.n_latents) as advance:
        return pair_statistics(
            method.scores, study.sides, n_permutations=settings.permutations, bootstrap=settings.bootstrap,
            n_folds=settings.folds, rule=settings.compat, alpha=settings.alpha, seed=settings.seed, advance=advance,
        )  # fmt: skip


def latent_rows(pair: str, statistics: PairStatistics) -> pl.DataFrame:
    """A row per latent of a pair."""
    return pl.DataFrame({"pair": pair, "latent": np.arange(len(statistics.columns["z"])), **statistics.columns})


def with_constants(
    table: pl.DataFrame, constants: Mapping[str, Any], names: Mapping[int, str] | None = None
) -> pl.DataFrame:
    """The table with the latents' names (None: it has no latents), the same values in further columns, and NaN as null."""
    table = table.with_columns(pl.col(pl.Float64).fill_nan(None))
    table = table if names is None else with_names(table, names)
    return table.with_columns(pl.lit(value, TYPES.get(name)).alias(name) for name, value in constants.items())


def result_row(
    study: Study,
    number: int,
    method: Method,
    statistics: PairStatistics,
    reference: best.Method | None,
    settings: ContrastSettings,
) -> dict[str, Any]:
    """A method and pair: how many latents separate it, the best one, and that less the best one of the reference.

    latent, higher, latent_auroc: that with the largest |z| on all images, the group that it is higher on, and its AUROC for that.
    auroc: of the latent that is best on the training folds, on the held-out images, mean over folds. diff: the same of the best of
    `n_compared` latents less that of the best of as many prototypes of the reference.
    """
    pair, sides, columns = study.pairs[number], study.sides[number], statistics.columns
    higher, auroc = columns["z"] >= 0, columns["auroc"]
    chosen, ours = int(np.abs(columns["z"]).argmax()), best.Method(method.scores, statistics.fold_z)
    args = (settings.bootstrap, settings.seed)
    compared = None if reference is None else best.compare(sides, statistics.fold, ours, reference, None, *args)
    if compared is not None and compared.n_prototypes == method.n_latents:
        one = compared.best
    else:
        one = best.best_of(sides, statistics.fold, ours, method.n_latents, *args)
    row = {
        "pair": pair.name, "n_a": len(pair.a), "n_b": len(pair.b), "n_third": len(pair.third),
        "clusters_a": int(sides.cluster_is_a.sum()), "clusters_b": int((~sides.cluster_is_a).sum()),
        "prevalence_a": len(pair.a) / sides.n_images, "n_latents": method.n_latents,
        "alpha": settings.alpha, "separating": int((columns["p_family"] <= settings.alpha).sum()), "z_threshold": statistics.threshold,
        "latent": chosen, "z": float(columns["z"][chosen]), "p_family": float(columns["p_family"][chosen]),
        "higher": "a" if higher[chosen] else "b",
        "latent_auroc": float(auroc[chosen] if higher[chosen] else 1 - auroc[chosen]), "d": float(columns["d"][chosen]),
        "f1": float(columns["f1"][chosen]),
        "auroc": one.auroc, "auroc_low": max(one.interval.low, 0.0), "auroc_high": min(one.interval.high, 1.0),
    }  # fmt: skip
    if compared is not None:
        low, high = compared.interval
        row |= {
            "n_compared": compared.n_prototypes,
            "auroc_compared": compared.best.auroc,
            "auroc_random": compared.reference.auroc,
        }
        row |= {"diff": compared.difference, "diff_low": low, "diff_high": high}
    return row


def accuracy_columns(fitted: Classifier | None) -> dict[str, Any]:
    """The balanced accuracies of a row of results; none where a group has too few images."""
    if fitted is None:
        return {}
    row: dict[str, Any] = {"kept": len(fitted.latents), "c": fitted.c}
    for name, one in (("", fitted.codes), ("_raw", fitted.raw), ("_null", fitted.permuted)):
        if one is not None:
            low, high = max(one.interval.low, 0.0), min(one.interval.high, 1.0)
            row |= {f"accuracy{name}": one.balanced, f"accuracy{name}_low": low, f"accuracy{name}_high": high}
    return row


def weight_rows(pair: str, fitted: Classifier | None) -> pl.DataFrame:
    """The latents with a weight in the L1 regression, a row each."""
    columns = ("latent", "weight", "frequency")
    values = ((), (), ()) if fitted is None else (fitted.latents, fitted.weights, fitted.frequency)
    schema = {"latent": pl.Int64, "weight": pl.Float64, "frequency": pl.Float64}
    table = pl.DataFrame(dict(zip(columns, values, strict=True)), schema=schema)
    return table.select(pl.lit(pair).alias("pair"), pl.all())


def path_rows(pair: str, fitted: Classifier | None) -> pl.DataFrame:
    """The L1 path, a row per penalty: C as a multiple of the smallest one with a weight, latents with a weight, balanced accuracy.

    Means over the inner folds, on which the penalty is chosen.
    """
    columns = ((), (), ()) if fitted is None else (FACTORS, fitted.path_latents, fitted.path_accuracy)
    names = ("c_factor", "n_latents", "inner_accuracy")
    table = pl.DataFrame(dict(zip(names, columns, strict=True)), schema=dict.fromkeys(names, pl.Float64))
    return table.select(pl.lit(pair).alias("pair"), pl.all())

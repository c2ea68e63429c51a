"""The rows of `saev.probe`: classes with their best latent, dictionaries with means over classes, and all pairs of a dictionary."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saev.annotations import with_names
from saev.files import replacing
from saev.metrics.resampling import MIN_IMAGES
from saev.probing.bootstrap import FiringTokens, average_precisions, cross_entropies, interval
from saev.probing.class_metrics import ClassMetrics
from saev.probing.counts.table import Columns, LabelTable
from saev.probing.logistic.fit import LogisticFit, Status
from saev.probing.logistic.weighting import losses_of_all_pairs
from saev.probing.ranking import auroc, average_precision, best_f1
from saev.probing.settings import Weights
from saev.probing.splits import LabelledData, Tally


def top_latents(top: Tensor, fit: LogisticFit, val: LabelTable) -> dict[str, Tensor]:
    """The best latents of each class: indices, training loss and (binned) validation AP; NaN where `top` is -1."""
    n_classes, n = top.shape
    distinct, row = torch.unique(top.clamp(min=0), return_inverse=True)
    column = torch.arange(n_classes, device=top.device)[:, None].expand(-1, n)
    ap = average_precision(val.select(distinct))[row, column]
    loss = fit.loss[top.clamp(min=0), column]
    absent = top < 0
    return {"top_latents": top.cpu(), "top_train_ce": loss.masked_fill(absent, torch.nan).cpu(),
            "top_ap": ap.masked_fill(absent, torch.nan).cpu()}  # fmt: skip


def class_rows(
    data: LabelledData,
    columns: Columns,
    metrics: ClassMetrics,
    tallies: tuple[Tally, Tally],
    top: Mapping[str, Tensor],
    intervals: Sequence[Mapping[str, float]],
) -> Iterator[dict[str, Any]]:
    """A row per class, with its training and validation images and tokens."""
    train, val = tallies
    for c, (id, name) in enumerate(zip(data.ids, data.names, strict=True)):
        column = int(columns.of_class[c])
        numbers = {key: none_if_nan(float(values[c])) for key, values in metrics._asdict().items() if key != "status"}
        yield {
            "class_id": id,
            "class": name,
            "latent": int(columns.latents[column]) if column >= 0 else None,
            "sign": int(columns.signs[column]) if column >= 0 else None,
            "status": Status(int(metrics.status[c])).name.lower() if column >= 0 else "unselected",
            "n_images_train": int(train.images[c]),
            "n_images_val": int(val.images[c]),
            "n_tokens_train": int(train.tokens[c]),
            "n_tokens_val": int(val.tokens[c]),
            "prevalence": int(val.tokens[c]) / val.n_tokens,
            **numbers,
            **{key: none_if_nan(value) for key, value in intervals[c].items()},
            **{key: [none_if_nan(value) for value in values[c].tolist()] for key, values in top.items()},
        }


def none_if_nan(value: Any) -> Any:
    """The value; None for NaN, and for -1, the index of no latent."""
    if isinstance(value, int):
        return value if value >= 0 else None
    return None if value != value else value


def count_statuses(fit: LogisticFit) -> str:
    """The number of pairs per status, as text."""
    counts = {status.name.lower(): int((fit.status == status).sum()) for status in Status}
    return ", ".join(f"{n} pairs {name}" for name, n in counts.items() if n)


def named(classes: pl.DataFrame, names: Mapping[str, Mapping[int, str]]) -> pl.DataFrame:
    """Rows of classes with the name of each best latent, null where it has none. `names`: by dictionary and latent."""
    parts = [
        with_names(rows, names.get(str(member), {}))
        for (member,), rows in classes.partition_by("member", as_dict=True, maintain_order=True).items()
    ]
    return pl.concat(parts)


TAUS = (0.3, 0.5, 0.7)


def summarise(judged: ClassMetrics, taus: Sequence[float] = TAUS) -> dict[str, float]:
    """`r` = 1 - sum of CE / sum of prevalence entropies; `r_macro` the mean of the classes' r; `map`, `auroc`, `f1`, `iou`,
    `precision16`, `purity16` means; `coverage_<tau>` the fraction of classes with AP >= tau; `n_classes` the classes counted."""
    known = judged.ap.isfinite()
    n = int(known.sum())
    if n == 0:
        return {"n_classes": 0}
    # A class of every validation token has no balanced cross-entropy and a prior of 0: it adds nothing.
    ce, prior, train_prior = (x[known].nansum() for x in (judged.ce, judged.ce_prevalence, judged.train_ce_prevalence))
    means = {"map": judged.ap, "auroc": judged.auroc, "f1": judged.f1, "iou": judged.iou}
    means |= {"precision16": judged.precision, "purity16": judged.purity}
    return {
        "n_classes": n,
        "r": float(1 - ce / prior) if prior > 0 else math.nan,
        "r_macro": float(judged.r[known].nanmean()),
        **{name: float(values[known].nanmean()) for name, values in means.items()},
        **{f"coverage_{tau}": float((judged.ap[known] >= tau).double().mean()) for tau in taus},
        "train_r": float(1 - judged.train_ce[known].sum() / train_prior),
    }


class ClassDraws(NamedTuple):
    """Numbers of each class in each resample of the images; NaN where there is none."""

    ap: Float64[np.ndarray, "classes n"]
    loss: Float64[np.ndarray, "classes n"]
    prior: Float64[np.ndarray, "classes n"]


def class_draws(
    judged: ClassMetrics,
    of_class: Int64[np.ndarray, " classes"],
    firing: FiringTokens,
    drawn: Int64[np.ndarray, "images n"],
    weights: Weights,
) -> ClassDraws:
    """Average precision, and cross-entropies as of `cross_entropies`, of each class's best latent."""
    n_classes = len(of_class)
    aps, losses, priors = (np.full((n_classes, drawn.shape[1]), np.nan) for _ in range(3))
    for number in np.flatnonzero(np.isfinite(judged.ap.numpy())):
        evidence = firing.of(int(of_class[number]), int(number))
        aps[number] = average_precisions(evidence, drawn)
        b, w = float(judged.b[number]), float(judged.w[number])
        losses[number], priors[number] = cross_entropies(evidence, b, w, drawn, weights)
    return ClassDraws(aps, losses, priors)


def intervals(
    judged: ClassMetrics,
    of_class: Int64[np.ndarray, " classes"],
    firing: FiringTokens,
    drawn: Int64[np.ndarray, "images n"],
    weights: Weights,
    draws: ClassDraws | None = None,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """95 % intervals over images: of each class's `ap` and `r`, and of the dictionary's `map` and `r`.

    NaN for a class in fewer than MIN_IMAGES images: resamples of so few say little of other images. `draws`: None: computed here.
    """
    n_classes = len(of_class)
    aps, losses, priors = draws or class_draws(judged, of_class, firing, drawn, weights)
    rs = 1 - losses / np.where(priors > 0, priors, np.nan)
    ap, r = judged.ap.numpy(), judged.r.numpy()
    known = [np.isfinite(ap[c]) and np.count_nonzero(firing.positives(c)) >= MIN_IMAGES for c in range(n_classes)]
    ap, r = np.where(known, ap, np.nan), np.where(known, r, np.nan)
    rows = [{**ends("ap", aps[c], ap[c]), **ends("r", rs[c], r[c])} for c in range(n_classes)]
    estimate = summarise(judged)
    if not estimate["n_classes"]:
        return rows, {}
    prior = np.nansum(priors, 0)
    total = 1 - np.nansum(losses, 0) / np.where(prior > 0, prior, np.nan)
    if len(drawn) < MIN_IMAGES:
        estimate = dict.fromkeys(estimate, math.nan)
    return rows, {**ends("map", mean_of_classes(aps), estimate["map"]), **ends("r", total, estimate["r"])}


def mean_of_classes(values: Float64[np.ndarray, "classes n"]) -> Float64[np.ndarray, " n"]:
    """Mean over the classes that a resample has."""
    finite = np.isfinite(values)
    return np.where(finite, values, 0).sum(0) / np.maximum(finite.sum(0), 1)


def ends(name: str, values: Float64[np.ndarray, " n"], estimate: float | None) -> dict[str, float]:
    """`<name>_low` and `<name>_high`, NaN without an estimate; clipped to [0, 1] but for `r`."""
    low, high = interval(values, math.nan if estimate is None else float(estimate))
    if name != "r":
        low, high = float(np.maximum(low, 0)), float(np.minimum(high, 1))
    return {f"{name}_low": low, f"{name}_high": high}


def write_pairs(
    directory: Path,
    name: str,
    fit: LogisticFit,
    train: LabelTable,
    val: LabelTable,
    ids: Sequence[int],
    names: Sequence[str],
    weights: Weights,
) -> Path:
    """<dictionary>.parquet: latent, class_id, class, status, b, w, train_ce, and val_ce, ap, auroc, best_f1 of validation tokens.

    Computed from the binned statistics; the exact numbers of the best latents are in classes.parquet.
    """
    bits = min(3, val.mantissa_bits)
    n_latents, n_classes = fit.b.shape
    f1 = best_f1(val)
    columns = {
        "b": fit.b,
        "w": fit.w,
        "train_ce": fit.loss,
        "val_ce": losses_of_all_pairs(val, bits, weights, fit.b, fit.w),
        "ap": average_precision(val),
        "auroc": auroc(val),
        "best_f1": f1.value,
    }
    table = pl.DataFrame(
        {
            "latent": np.repeat(np.arange(n_latents, dtype=np.int32), n_classes),
            "class_id": np.tile(np.asarray(ids), n_latents),
            "class": pl.Series(names, dtype=pl.String).gather(np.tile(np.arange(n_classes), n_latents)),
            "status": pl.Series([s.name.lower() for s in Status]).gather(fit.status.flatten().cpu().numpy()),
            **{key: values.flatten().cpu().numpy() for key, values in columns.items()},
        }
    ).with_columns(pl.col(pl.Float64).fill_nan(None))
    path = directory / f"{name.replace('/', '_')}.parquet"
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        table.write_parquet(file)
    return path

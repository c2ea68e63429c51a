"""Every (latent, class) pair of a dictionary as a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from saev.files import replacing
from saev.probing.counts.table import LabelTable
from saev.probing.logistic.fit import LogisticFit, Status
from saev.probing.logistic.weighting import losses_of_all_pairs
from saev.probing.ranking.measures import auroc, average_precision, best_f1
from saev.probing.settings import Weights


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

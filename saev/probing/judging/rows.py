"""The rows of `saev.probe`: the best latent of each class and its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saev.probing.counts.columns import Columns
from saev.probing.counts.table import LabelTable
from saev.probing.data.splits import LabelledData
from saev.probing.judging.class_metrics import ClassMetrics
from saev.probing.logistic.fit import LogisticFit, Status
from saev.probing.ranking.measures import average_precision


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
    positives: tuple[Tensor, Tensor],
    n_val: int,
    top: Mapping[str, Tensor],
    intervals: Sequence[Mapping[str, float]],
) -> Iterator[dict[str, Any]]:
    """A row per class. `positives` are its training and validation tokens, of the latter `n_val` in all."""
    for c, (id, name) in enumerate(zip(data.ids, data.names, strict=True)):
        column = int(columns.of_class[c])
        numbers = {key: none_if_nan(float(values[c])) for key, values in metrics._asdict().items() if key != "status"}
        n_train, n_positive = (int(counts[c]) for counts in positives)
        yield {
            "class_id": id,
            "class": name,
            "latent": int(columns.latents[column]) if column >= 0 else None,
            "sign": int(columns.signs[column]) if column >= 0 else None,
            "status": Status(int(metrics.status[c])).name.lower() if column >= 0 else "unselected",
            "n_train": n_train,
            "n_val": n_positive,
            "prevalence": n_positive / n_val,
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

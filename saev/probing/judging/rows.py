"""The rows of `saev probe`: a class's best latent and its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from saev.probing.counts.columns import Columns
from saev.probing.counts.table import LabelTable
from saev.probing.data.splits import Labelled
from saev.probing.judging.class_metrics import ClassMetrics, evaluate
from saev.probing.logistic.fit import LogisticFit, Status
from saev.probing.logistic.weighting import Weights
from saev.probing.ranking.measures import average_precision


def judged_of(
    train: LabelTable, val: LabelTable, columns: Columns, fit: LogisticFit, ridge: float, weights: Weights
) -> ClassMetrics:
    """The winners' numbers, on the CPU."""
    of_class = columns.of_class
    known = of_class.clamp(min=0)
    latent, sign = columns.latents[known], columns.signs[known]
    at = torch.arange(len(of_class), device=latent.device)
    start = fit.b[latent, at], fit.w[latent, at] * sign
    return ClassMetrics(*(values.cpu() for values in evaluate(train, val, of_class, start, ridge, weights)))


def listed(top: torch.Tensor, fit: LogisticFit, val: LabelTable) -> dict[str, torch.Tensor]:
    """The best latents of each class: their numbers, training loss and (binned) validation AP; NaN where there are fewer."""
    n_classes, n = top.shape
    distinct, place = torch.unique(top.clamp(min=0), return_inverse=True)
    at = torch.arange(n_classes, device=top.device)[:, None].expand(-1, n)
    ap = average_precision(val.of(distinct))[place, at]
    loss = fit.loss[top.clamp(min=0), at]
    nothing = top < 0
    return {"top_latents": top.cpu(), "top_train_ce": loss.masked_fill(nothing, torch.nan).cpu(),
            "top_ap": ap.masked_fill(nothing, torch.nan).cpu()}  # fmt: skip


def class_rows(
    own: Mapping[str, Any],
    data: Labelled,
    columns: Columns,
    judged: ClassMetrics,
    tables: tuple[LabelTable, LabelTable],
    top: Mapping[str, torch.Tensor],
    each: Sequence[Mapping[str, float]],
) -> list[dict[str, Any]]:
    """A row per class."""
    train, val = tables
    rows = []
    for c, (id, name) in enumerate(zip(data.ids, data.names, strict=True)):
        column = int(columns.of_class[c])
        numbers = {key: blank(float(values[c])) for key, values in judged._asdict().items() if key != "status"}
        rows.append({
            **own,
            "class_id": id,
            "class": name,
            "latent": int(columns.latents[column]) if column >= 0 else None,
            "sign": int(columns.signs[column]) if column >= 0 else None,
            "status": Status(int(judged.status[c])).name.lower() if column >= 0 else "unselected",
            "n_train": int(train.positives[c]),
            "n_val": int(val.positives[c]),
            "prevalence": int(val.positives[c]) / val.n_tokens,
            **numbers,
            **{key: blank(value) for key, value in each[c].items()},
            **{key: [blank(value) for value in values[c].tolist()] for key, values in top.items()},
        })  # fmt: skip
    return rows


def blank(value: Any) -> Any:
    """The value; None where it is NaN, or -1 for a latent that is not there."""
    if isinstance(value, int):
        return value if value >= 0 else None
    return None if value != value else value


def tally(fit: LogisticFit) -> str:
    """How many pairs ended how."""
    counts = {status.name.lower(): int((fit.status == status).sum()) for status in Status}
    return ", ".join(f"{n} pairs {name}" for name, n in counts.items() if n)

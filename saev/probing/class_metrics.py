"""The best latent of each class: chosen and fitted on training tokens, evaluated on validation tokens.

fit of all pairs --best_columns--> Columns      their exact tables --evaluate--> ClassMetrics
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int8, Int64
from torch import Tensor

from saev.probing.counts import segments
from saev.probing.counts.table import Columns, LabelTable
from saev.probing.logistic.fit import RIDGE, LogisticFit, Status, prevalence_entropy, solve
from saev.probing.logistic.weighting import losses_of_pairs, pairs_of
from saev.probing.ranking import K, auroc, average_precision, best_f1, precision_at, purity_at
from saev.probing.settings import Weights


def best_latents(fit: LogisticFit, train: LabelTable, n: int) -> Int64[Tensor, "classes n"]:
    """The n latents with the lowest training loss of each class, the best first; of equal ones the lowest index.

    -1 where fewer latents fire, or where no token or every token is of the class.
    """
    loss = torch.where(fit.status == Status.CONSTANT, torch.inf, fit.loss)
    loss, order = loss.T.sort(dim=1, stable=True)
    order = torch.where(loss < torch.inf, order, -1)[:, :n]
    return torch.nn.functional.pad(order, (0, n - order.shape[1]), value=-1)


def best_columns(
    fit: LogisticFit, train: LabelTable, n: int
) -> tuple[Columns, tuple[Float64[Tensor, " classes"], Float64[Tensor, " classes"]], Int64[Tensor, "classes n"]]:
    """(the best latents as columns, (b, w) of each class's column, the n best latents of each class)."""
    top = best_latents(fit, train, n)
    best = top[:, 0]
    pair = best.clamp(min=0), torch.arange(len(best), device=best.device)
    return Columns.choose(best, fit.w[pair], train.n_latents), (fit.b[pair], fit.w[pair].abs()), top


class ClassMetrics(NamedTuple):
    """Numbers of each class; NaN (status: -1) where it has no latent, or no validation token."""

    b: Float64[Tensor, " classes"]
    w: Float64[Tensor, " classes"]  # of the column, so not negative, except by the exact fit
    status: Int8[Tensor, " classes"]
    train_ce: Float64[Tensor, " classes"]  # mean cross-entropy, nats per token
    train_ce_prevalence: Float64[Tensor, " classes"]
    ce: Float64[Tensor, " classes"]  # from here on over validation tokens
    ce_prevalence: Float64[Tensor, " classes"]  # of predicting the prevalence everywhere
    r: Float64[Tensor, " classes"]  # 1 - ce / ce_prevalence
    ap: Float64[Tensor, " classes"]
    auroc: Float64[Tensor, " classes"]
    threshold: Float64[Tensor, " classes"]  # on the column's code, with the best F1 in training
    f1: Float64[Tensor, " classes"]
    iou: Float64[Tensor, " classes"]
    precision: Float64[Tensor, " classes"]  # at K
    purity: Float64[Tensor, " classes"]  # at K

    @classmethod
    def empty(cls, n_classes: int) -> "ClassMetrics":
        """Those of a dictionary that has no latent for any class."""
        numbers = torch.full((n_classes,), torch.nan, dtype=torch.float64)
        status = torch.full((n_classes,), -1, dtype=torch.int8)
        return cls(**{name: status if name == "status" else numbers for name in cls._fields})


def evaluate(
    train: LabelTable,
    val: LabelTable,
    of_class: Int64[Tensor, " classes"],
    start: tuple[Float64[Tensor, " classes"], Float64[Tensor, " classes"]],
    ridge: float = RIDGE,
    weights: Weights = "none",
) -> ClassMetrics:
    """Fit each class's column on the training tokens and evaluate it on the validation tokens.

    Exact where each bin of the tables holds one value (mantissa_bits=23). `start` is each class's (b, w) from the fit of all
    pairs. Only cross-entropies depend on `weights`; balanced ones are NaN where all validation tokens are of the class.
    """
    known = (of_class >= 0).nonzero()[:, 0]
    in_train, in_val = train.select(of_class[known]), val.select(of_class[known])
    row = torch.arange(len(known), device=known.device)
    fitted, evaluated = pairs_of(in_train, known, weights), pairs_of(in_val, known, weights)
    fit = solve(*fitted, ridge, start=(start[0][known, None], start[1][known, None]))
    ce = losses_of_pairs(evaluated, weights, fit.b, fit.w)[:, 0]
    train_prior, prior = (
        prevalence_entropy(pairs.positives[:, 0], pairs.nodes.n_tokens) for pairs in (fitted, evaluated)
    )
    threshold = best_f1(in_train).threshold[row, known]
    predicted, hits = counts_above(in_val, known, threshold)
    n_positive = val.positives[known]
    columns = of_class[known]
    metrics = {
        "b": fit.b[:, 0],
        "w": fit.w[:, 0],
        "status": fit.status[:, 0],
        "train_ce": fit.loss[:, 0],
        "train_ce_prevalence": train_prior,
        "ce": ce,
        "ce_prevalence": prior,
        "r": 1 - ce / torch.where(prior > 0, prior, torch.nan),  # NaN where every token or none is of the class
        "ap": average_precision(in_val)[row, known],
        "auroc": auroc(in_val)[row, known],
        "threshold": threshold,
        "f1": 2 * hits.double() / (predicted + n_positive),
        "iou": hits.double() / (predicted + n_positive - hits),
        "precision": precision_at(val, K)[columns, known],
        "purity": purity_at(val, K)[columns],
    }
    return ClassMetrics(
        **{name: _by_class(values, known, len(of_class), n_positive > 0) for name, values in metrics.items()}
    )


def counts_above(
    table: LabelTable, classes: Int64[Tensor, " rows"], threshold: Float64[Tensor, " rows"]
) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, " rows"]]:
    """(tokens, tokens of the class) with codes >= threshold, for the latent and class of each row."""
    above = table.edges >= threshold[table.latent]
    n = table.n_latents
    predicted = segments.scatter_sum(table.count * above, table.latent, n)
    owner = table.latent[table.group]
    positive = (table.label == classes[owner]) & above[table.group]
    hits = segments.scatter_sum(table.joint * positive, owner, n)
    row = torch.arange(n, device=classes.device)
    silent = (threshold <= 0).long()
    predicted = predicted + silent * (table.n_tokens - table.firings)
    return predicted, hits + silent * (table.positives[classes] - table.p0[row, classes])


def _by_class(values: Tensor, known: Int64[Tensor, " rows"], n_classes: int, judged: Bool[Tensor, " rows"]) -> Tensor:
    """The rows' values, at the indices of their classes."""
    if not values.is_floating_point():
        return torch.full((n_classes,), -1, dtype=values.dtype, device=values.device).index_copy(0, known, values)
    values = torch.where(judged, values, torch.nan)
    return torch.full((n_classes,), torch.nan, dtype=torch.float64, device=values.device).index_copy(0, known, values)

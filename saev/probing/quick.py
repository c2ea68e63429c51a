"""How well a dictionary's best latents tell classes, from one pass over a small sample: what `saev probe` says, but for bins.

    Sample ──encode──▶ tables of all pairs ──solve──▶ best latents ──their rows, turned round──▶ judge ──▶ numbers

Codes within 2^-10 of each other, relatively, count as equal; `saev probe` reads twice and keeps the best latents' exact codes.
"""

import dataclasses

import torch

from saev.codes.pairs import sparse_codes
from saev.dictionary import Dictionary
from saev.ops import ordering
from saev.probing.counts.columns import Columns
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import LabelTable
from saev.probing.data.sample import Sample, Tokens
from saev.probing.judging.class_metrics import best_columns, evaluate
from saev.probing.judging.summary import summarise
from saev.probing.logistic.fit import solve
from saev.probing.logistic.nodes import nodes

BITS = 3  # of mantissa in the fit of all pairs, which chooses; those chosen are fitted in the table's bins
BATCH = 4096  # tokens encoded at a time


@torch.inference_mode()
def quick_score(dictionary: Dictionary, sample: Sample) -> dict[str, float]:
    """The numbers of `summary.summarise`, `r` and `map` among them; {} where codes are not finite or no latent fires.

    Computed where the dictionary is, activations in float32. Costs an encoding of the sample and a few Newton steps on
    n_latents * n_classes pairs; memory up to 224 bytes per code that is not 0 in half of the sample.
    """
    train, val = (_table(dictionary, half, len(sample.classes)) for half in (sample.train, sample.val))
    if train is None or val is None:
        return {}
    fit = solve(nodes(train, BITS), train.positives, train.p1)
    columns, start, _ = best_columns(fit, train, 1)
    if not len(columns):
        return {}
    return summarise(evaluate(column_table(train, columns), column_table(val, columns), columns.of_class, start))


def _table(dictionary: Dictionary, tokens: Tokens, n_classes: int) -> LabelTable | None:
    device = dictionary.atoms.device
    stats = LatentLabelStats(dictionary.n_latents, n_classes).to(device)
    stats.distributed_available_fn = lambda: False  # other processes have other dictionaries
    for acts, labels in zip(tokens.acts.split(BATCH), tokens.labels.split(BATCH), strict=True):
        codes = sparse_codes(dictionary, acts.to(device).float())
        if not bool(codes.values.isfinite().all()):
            return None
        stats.update(codes, labels)
    return stats.compute()


def column_table(table: LabelTable, columns: Columns) -> LabelTable:
    """The table that the columns' codes would make: that of their latents, with values of the other sign where `signs` is -1."""
    mine = table.select(columns.latents)
    turned = columns.signs < 0
    flip = turned[mine.latent]
    sign = torch.where(flip, -1.0, 1.0).double()
    key = torch.where(flip, ~mine.key, mine.key)  # the order of -x is -1 minus that of x
    order = ordering.order((mine.latent << 33) + key)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    group = place[mine.group]
    entries = ordering.order(group * mine.n_classes + mine.label)

    return dataclasses.replace(
        mine,
        key=key[order],
        count=mine.count[order],
        total=(sign * mine.total)[order],
        squares=mine.squares[order],
        group=group[entries],
        label=mine.label[entries],
        joint=mine.joint[entries],
        p1=torch.where(turned[:, None], -mine.p1, mine.p1),
    )

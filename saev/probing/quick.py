"""The numbers of `saev.probe` for a dictionary, from one pass over a small sample in memory.

    Sample ──encode──▶ tables of all pairs ──solve──▶ best latents ──sign-flipped rows──▶ evaluate ──▶ numbers

Codes within a relative 2^-10 count as equal; `saev.probe` reads twice and uses the best latents' exact codes.
"""

import dataclasses

import torch

from saev.codes.pairs import sparse_codes
from saev.dictionary import Dictionary
from saev.ops import ordering
from saev.probing.class_metrics import best_columns, evaluate
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import Columns, LabelTable
from saev.probing.logistic.fit import solve
from saev.probing.logistic.nodes import nodes
from saev.probing.rows import summarise
from saev.probing.sample import Sample, Tokens

BITS = 3  # mantissa bits in the fit of all pairs; the best latents are fitted in the bins of the table
BATCH = 4096  # tokens encoded at a time


@torch.inference_mode()
def quick_score(dictionary: Dictionary, sample: Sample) -> dict[str, float]:
    """The numbers of `judging.summarise`, e.g. `r` and `map`; {} where codes are not finite or no latent fires.

    Computed in float32 on the dictionary's device. Cost: an encoding of the sample and a few Newton steps on n_latents * n_classes
    pairs; memory up to 224 bytes per non-zero code of half of the sample.
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
    stats.distributed_available_fn = lambda: False  # other processes score other dictionaries
    for acts, labels in zip(tokens.acts.split(BATCH), tokens.labels.split(BATCH), strict=True):
        codes = sparse_codes(dictionary, acts.to(device).float())
        if not bool(codes.values.isfinite().all()):
            return None
        stats.update(codes, labels)
    return stats.compute()


def column_table(table: LabelTable, columns: Columns) -> LabelTable:
    """The table of the columns: that of their latents, with values negated where `signs` is -1."""
    selected = table.select(columns.latents)
    flipped = columns.signs < 0
    flip = flipped[selected.latent]
    sign = torch.where(flip, -1.0, 1.0).double()
    key = torch.where(flip, ~selected.key, selected.key)  # the order of -x is -1 minus that of x
    order = ordering.order((selected.latent << 33) + key)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    group = rank[selected.group]
    entries = ordering.order(group * selected.n_classes + selected.label)

    return dataclasses.replace(
        selected,
        key=key[order],
        count=selected.count[order],
        total=(sign * selected.total)[order],
        squares=selected.squares[order],
        group=group[entries],
        label=selected.label[entries],
        joint=selected.joint[entries],
        p1=torch.where(flipped[:, None], -selected.p1, selected.p1),
    )

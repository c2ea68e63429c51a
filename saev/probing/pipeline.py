"""`saev.probe`: dictionaries and labelled activations -> the best latent of each class.

first pass ──▶ tables of all pairs ──fit──▶ best latents ──second pass──▶ exact tables ──evaluate──▶ rows
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from torch import Tensor

from saev.codes.store import CodeStore
from saev.device import resolve_device
from saev.dictionary import Dictionary
from saev.probing.bootstrap import FiringTokens
from saev.probing.class_metrics import ClassMetrics, best_columns, evaluate
from saev.probing.comparing import Probed, add_differences, check_permutations, compare_all, reference_of
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import Columns
from saev.probing.inputs import ProbeInputs, Recording, open_inputs
from saev.probing.logistic.weighting import fit_all
from saev.probing.passes import EXACT, Source, first_pass, l0_of_first_batch, second_pass
from saev.probing.rows import (
    ClassDraws,
    class_draws,
    class_rows,
    count_statuses,
    intervals,
    named,
    none_if_nan,
    summarise,
    top_latents,
    write_pairs,
)
from saev.probing.settings import ProbeSettings
from saev.probing.sparse.probing import sparse_probing
from saev.probing.sparse.references import references
from saev.probing.splits import TRUE, LabelledData
from saev.progress import bar
from saev.runs.tables import write_table
from saev.saved import SavedDictionary
from saev.scoring.against import seed_table

log = logging.getLogger(__name__)
CHECKPOINT = "statistics.pt"
NUMBERS = ("map", "r", "f1", "coverage_0.3")  # summed up over seeds
Variant = tuple[str, str]  # variant of the labels, dictionary


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Tables of `saev.probe`, which `directory` holds as parquet and csv.

    `results` has a row per dictionary and variant of the labels (true, permuted), `classes` a row per class of each. `sparse`
    and `sparse_classes` are those of probes on several latents together; None without them. `seeds` has means and standard deviations
    over dictionaries that differ by seed only; None without such. `draws`: by dictionary, the numbers of its classes with true labels in
    each resample of the validation images; empty without resamples.
    """

    results: pl.DataFrame
    classes: pl.DataFrame
    sparse: pl.DataFrame | None
    sparse_classes: pl.DataFrame | None
    directory: Path | None
    seeds: pl.DataFrame | None = None
    draws: Mapping[str, ClassDraws] = dataclasses.field(default_factory=dict, repr=False)

    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables by the names of their files."""
        named = {name: getattr(self, name) for name in ("classes", "results", "seeds", "sparse_classes", "sparse")}
        return {name: table for name, table in named.items() if table is not None}


class BestLatents(NamedTuple):
    """What the first pass tells of one dictionary and variant of the labels."""

    columns: Columns
    start: tuple[Tensor, Tensor]  # (b, w) of each class's column
    top: Mapping[str, Tensor]


def probe(
    dictionaries: str
    | os.PathLike
    | SavedDictionary
    | CodeStore
    | Sequence[Any]
    | Mapping[str, Dictionary]
    | ProbeInputs,
    dataset: Recording,
    settings: ProbeSettings = ProbeSettings(),  # noqa: B008 (frozen)
    *,
    validation: Recording | None = None,
    layer: int | None = None,
    directory: str | os.PathLike | None = None,
    device: str = "auto",
    keep_checkpoint: bool = False,
) -> ProbeResult:
    """Find the latent that stands for each class, on training images, and measure it on validation images.

    Args:
        dictionaries: directories of dictionaries, runs, sweeps or codes (`saev.encode`), name -> dictionary in memory, or what
            `open_inputs` returned.
        dataset: a recording whose tokens have labels.
        validation: another recording of the same classes; None: images of `dataset`, held out.
        layer: block index; None: the one that the dictionaries were trained on.
        directory: where tables and the checkpoint of an interrupted call are written; None: nothing is written.
        keep_checkpoint: keep the statistics of all pairs, so that a further call does not read all codes again.

    ValueError for dictionaries, recordings, labels and settings that do not fit each other, before anything is read.
    """
    device, path = resolve_device(device), None if directory is None else Path(directory)
    if settings.pairs and path is None:
        raise ValueError("pairs=true writes a table for each dictionary: give directory=.")
    if isinstance(dictionaries, ProbeInputs):
        inputs = dictionaries
    else:
        inputs = open_inputs(dictionaries, dataset, settings, validation=validation, layer=layer)
    reference = reference_of(inputs, settings.against)
    check_permutations(reference, settings, len(inputs.data.names))
    sources, checkpoint = inputs.sources(settings, device), path / CHECKPOINT if path else None
    identity = inputs.identity(settings)
    best = find_best(settings, inputs.data, sources, inputs.n_latents, checkpoint, identity, device)
    classes, results, draws = evaluate_best(settings, inputs.data, sources, inputs.n_latents, best, device, reference)
    classes, origins = named(classes, inputs.names), inputs.origins()
    tables = {
        name: table.join(origins, "member", maintain_order="left")
        for name, table in (("classes", classes), ("results", results))
    }
    true = {row["member"]: row for row in tables["results"].filter(labels=TRUE).iter_rows(named=True)}
    seeds = seed_table(true, inputs.dictionaries, NUMBERS, [name for name in reference if name in true])
    if seeds is not None:
        tables["seeds"] = seeds
    _write(path, tables)  # before probes that may fail
    if settings.sparse.levels:
        train, val = inputs.data.splits
        drawn = val.draws(settings.bootstrap, settings.seed)
        compared = None
        if "image" in settings.sparse.levels:
            compared = references(sources, inputs.n_latents, train, settings.batch_size, settings.seed, device)
        sparse_classes, sparse = sparse_probing(settings.sparse, inputs.data, sources, compared, drawn)
        added = {"sparse_classes": _frame(sparse_classes), "sparse": _frame(sparse)}
        tables |= (
            added := {name: table.join(origins, "member", maintain_order="left") for name, table in added.items()}
        )
        _write(path, added)
    if checkpoint and not keep_checkpoint:
        checkpoint.unlink(missing_ok=True)
    return ProbeResult(
        tables["results"], tables["classes"], tables.get("sparse"), tables.get("sparse_classes"), path, seeds, draws
    )


def find_best(
    settings: ProbeSettings,
    data: LabelledData,
    sources: Sequence[Source],
    n_latents: Mapping[str, int],
    checkpoint: Path | None,
    identity: str,
    device: str,
) -> dict[Variant, BestLatents]:
    """Count all codes, fit all pairs and choose the best latent of each class, per variant and dictionary."""
    variants, n_classes = list(data.splits[0].variants), len(data.names)
    l0 = {name: mean for source in sources for name, mean in l0_of_first_batch(source, data.splits[0]).items()}
    budget = {name: settings.budget_gib * l0[name] / sum(l0.values()) / len(variants) for name in n_latents}
    stats = {
        (split.name, variant, name): LatentLabelStats(n, n_classes, settings.mantissa_bits, budget[name]).to(device)
        for split in data.splits
        for variant in variants
        for name, n in n_latents.items()
    }
    first_pass(stats, data.splits, sources, checkpoint, identity, settings.save_every_s)
    best: dict[Variant, BestLatents] = {}
    with bar("Probes of all latents", len(variants) * n_classes * sum(n_latents.values())) as advance:
        for variant, name in itertools.product(variants, n_latents):
            train, val = (stats[split.name, variant, name].compute() for split in data.splits)
            fit = fit_all(train, min(3, train.mantissa_bits), settings.weights, settings.ridge, advance)
            log.debug("%s (%s labels): %s", name, variant, count_statuses(fit))
            columns, start, top = best_columns(fit, train, settings.top)
            best[variant, name] = BestLatents(columns, start, top_latents(top, fit, val))
            if not len(columns):
                log.warning("%s (%s labels): no class has a latent, as none fires or there is one class", name, variant)
            if settings.pairs and variant == TRUE and checkpoint:
                folder = checkpoint.parent / "pairs"
                write_pairs(folder, name, fit, train, val, data.ids, data.names, settings.weights)
    return best


def evaluate_best(
    settings: ProbeSettings,
    data: LabelledData,
    sources: Sequence[Source],
    n_latents: Mapping[str, int],
    best: Mapping[Variant, BestLatents],
    device: str,
    reference: Sequence[str] = (),
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, ClassDraws]]:
    """Fit the best latents exactly and measure them on validation tokens: (rows of classes, rows of dictionaries, with true labels
    their classes in each resample).

    With the names of a `reference` (and resamples), all others are compared with it.
    """
    (train, val), n_classes = data.splits, len(data.names)
    n_clusters = int(val.cluster.max()) + 1  # images, or groups of images

    def new_stats(n_columns: int) -> LatentLabelStats:
        return LatentLabelStats(n_columns, n_classes, EXACT, settings.budget_gib).to(device)

    columns = {key: one.columns for key, one in best.items()}
    exact, firing = second_pass(data.splits, sources, columns, new_stats)
    drawn = val.draws(settings.bootstrap, settings.seed)
    tallies = {variant: (train.tally(variant), val.tally(variant)) for variant in train.variants}
    counts = data.counts()
    classes, results, probed = [], [], {}
    for (variant, name), one in best.items():
        metrics, of_class = ClassMetrics.empty(n_classes), one.columns.of_class
        if len(one.columns):
            in_train, in_val = (exact[split.name, variant, name].compute() for split in data.splits)
            evaluated = evaluate(in_train, in_val, of_class, one.start, settings.ridge, settings.weights)
            metrics = ClassMetrics(*(values.cpu() for values in evaluated))
        by_class, total = [{} for _ in data.names], {}
        if drawn is not None:
            tokens = firing.get((variant, name), FiringTokens(n_clusters))
            about = metrics, of_class.cpu().numpy(), tokens
            draws = class_draws(*about, drawn, settings.weights)
            by_class, total = intervals(*about, drawn, settings.weights, draws)
            if variant == TRUE and len(one.columns):
                probed[name] = Probed(*about, draws)
        key = {"member": name, "labels": variant}
        rows = class_rows(data, one.columns, metrics, tallies[variant], one.top, by_class)
        classes += [{**key, **row} for row in rows]
        numbers = {metric: none_if_nan(value) for metric, value in {**summarise(metrics), **total}.items()}
        results.append({**key, "weights": settings.weights, "n_latents": n_latents[name], **numbers, **counts})
    if {*reference} and {*reference} <= {*probed}:
        compared = compare_all(probed, reference, settings.permutations, settings.seed, settings.weights)
        add_differences(classes, results, compared, settings)
    return _frame(classes), _frame(results), {name: one.draws for name, one in probed.items()}


def _frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)


def _write(directory: Path | None, tables: Mapping[str, pl.DataFrame]) -> None:
    if directory is not None:
        for name, table in tables.items():
            write_table(directory, name, table)

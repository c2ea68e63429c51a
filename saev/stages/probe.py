"""saev probe: dictionaries and labelled activations -> which latent stands for which class.

first pass ──▶ tables of all pairs ──solve──▶ best latents ──second pass──▶ exact tables ──judge──▶ rows
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from saev.codes.store import CodeStore
from saev.config.probe_checks import check_stored, is_codes, sparse_settings, stamps, validate
from saev.device import resolve_device
from saev.probing.counts.columns import Columns
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import LabelTable
from saev.probing.data.sources import Live, Source, Stored, active
from saev.probing.data.splits import TRUE, Labelled, count, labelled
from saev.probing.judging.bootstrap import draws
from saev.probing.judging.class_metrics import ClassMetrics, best_latents
from saev.probing.judging.firing_tokens import FiringTokens
from saev.probing.judging.pair_tables import write_pairs
from saev.probing.judging.rows import blank, class_rows, judged_of, listed, tally
from saev.probing.judging.summary import intervals, summarise
from saev.probing.logistic.fit import LogisticFit
from saev.probing.logistic.weighting import fit_all
from saev.probing.passes import EXACT, FirstPass, second_pass
from saev.probing.sparse.probing import sparse_probing
from saev.progress import bar
from saev.recipes.supervised import check_linear, supervised
from saev.runs.signals import answer_slurm
from saev.runs.tables import print_files, write_table
from saev.saved import SavedDictionary, find_dictionaries, layer_of, names, open_recording
from saev.shards import ActivationStore
from saev.visuals.probe_table import probe_table

log = logging.getLogger(__name__)
CHECKPOINT = "statistics.pt"


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Probe the named dictionaries; a row per dictionary and null. The classes' rows are in classes.parquet."""
    validate(cfg)
    answer_slurm()
    device = resolve_device(cfg.device)
    paths = [*dict.fromkeys(str(Path(path)) for path in cfg.dictionaries)]
    stored = {path: CodeStore(path) for path in paths if is_codes(path)}
    found = find_dictionaries(plain) if (plain := [path for path in paths if path not in stored]) else []
    check_stored(cfg, list(stored.values()))
    layer = layer_for(cfg, found, list(stored.values()))
    data = labelled(cfg, layer)
    if cfg.linear:
        check_linear(cfg.linear_probe, [one.name for one in found], count(data.splits[0]))
    sources: list[Source] = []
    if found:
        sources.append(Live({one.name: one.load(device) for one in found}, cfg.batch_size, cfg.latent_topk))
    for name, codes in zip(names([Path(path) for path in stored]), stored.values(), strict=True):
        source = Stored(name, codes, cfg.batch_size, device)
        for split in data.splits:
            source.check(split)
        sources.append(source)
    sizes = {one.name: int(one.config["n_latents"]) for one in found}
    sizes |= {s.names[0]: s.codes.n_latents for s in sources if isinstance(s, Stored)}
    directory = Path(cfg.paths.run_dir)
    classes, rows = probe(cfg, data, sources, sizes, directory, device)
    # written before what may fail or be stopped
    written = [write_table(directory, "classes", classes), write_table(directory, "results", rows)]
    if cfg.sparse.levels:
        together, means = sparse_probing(sparse_settings(cfg), data, sources)
        written += [write_table(directory, "sparse_classes", together), write_table(directory, "sparse", means)]
    if cfg.linear:
        rows += supervised(cfg, data, {one.name: one.load(device) for one in found}, directory)
        write_table(directory, "results", rows)
    (directory / CHECKPOINT).unlink(missing_ok=True)
    console = Console()
    console.print(probe_table(rows))
    print_files(written)
    return rows


def probe(
    cfg: DictConfig,
    data: Labelled,
    sources: Sequence[Source],
    sizes: Mapping[str, int],
    directory: Path,
    device: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows of classes, rows of dictionaries), each once per variant of the labels."""
    variants, n_classes = list(data.splits[0].variants), len(data.names)

    def new_stats(n_latents: int, bits: int, budget_gib: float) -> LatentLabelStats:
        return LatentLabelStats(n_latents, n_classes, bits, budget_gib).to(device)

    keys = [(split.name, variant, name) for split in data.splits for variant in variants for name in sizes]
    weight = {name: l0 for source in sources for name, l0 in active(source, data.splits[0]).items()}
    share = {name: cfg.budget_gib * weight[name] / sum(weight.values()) / len(variants) for name in sizes}
    stats = {key: new_stats(sizes[key[2]], cfg.mantissa_bits, share[key[2]]) for key in keys}
    first = FirstPass(stats, directory / CHECKPOINT, identity(cfg, data, sizes), cfg.save_every_s)
    first.resume()
    first.run(data.splits, sources)
    first.save()
    fits: dict[tuple[str, str], LogisticFit] = {}
    tops: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    chosen: dict[tuple[str, str], Columns] = {}
    tokens: dict[tuple[str, str], tuple[LabelTable, LabelTable]] = {}  # and their classes; of no latent
    for variant in variants:
        for name in sizes:
            train, val = (stats[split.name, variant, name].compute() for split in data.splits)
            with bar(f"Probes: {name} ({variant} labels)", train.n_latents * n_classes) as advance:
                fit = fit_all(train, min(3, train.mantissa_bits), cfg.weights, cfg.ridge, advance)
            log.info("%s (%s labels): %s", name, variant, tally(fit))
            top = best_latents(fit, train, cfg.top)
            best = top[:, 0]
            slope = fit.w[best.clamp(min=0), torch.arange(n_classes, device=best.device)]
            fits[variant, name] = fit
            tops[variant, name] = listed(top, fit, val)
            chosen[variant, name] = Columns.choose(best, slope, sizes[name])
            tokens[variant, name] = train.of(best[:0]), val.of(best[:0])
            if not len(chosen[variant, name]):
                log.warning("%s (%s labels): no class has a latent, as none fires or there is one class", name, variant)
            if cfg.pairs and variant == TRUE:
                write_pairs(directory / "pairs", name, fit, train, val, data.ids, data.names, cfg.weights)
    stats.clear()  # room for the exact ones
    exact, firing = second_pass(data.splits, sources, chosen, lambda n: new_stats(n, EXACT, cfg.budget_gib))
    drawn = draws(len(data.splits[1].images), cfg.bootstrap, cfg.seed) if cfg.bootstrap else None
    rows, totals = [], []
    for (variant, name), columns in chosen.items():
        own = {"member": name, "labels": variant}
        judged = ClassMetrics.nothing(n_classes)
        if len(columns):
            train, val = (exact[split.name, variant, name].compute() for split in data.splits)
            judged = judged_of(train, val, columns, fits[variant, name], cfg.ridge, cfg.weights)
        each, total = [{} for _ in data.names], {}
        if drawn is not None:
            seen = firing.get((variant, name), FiringTokens(len(data.splits[1].images)))
            each, total = intervals(judged, columns.of_class.cpu().numpy(), seen, drawn, cfg.weights)
        rows += class_rows(own, data, columns, judged, tokens[variant, name], tops[variant, name], each)
        numbers = {**summarise(judged), **total}
        totals.append(
            {
                **own,
                "weights": cfg.weights,
                "n_latents": sizes[name],
                **{key: blank(value) for key, value in numbers.items()},
            }
        )
    return rows, totals


def layer_for(cfg: DictConfig, found: Sequence[SavedDictionary], stored: Sequence[CodeStore]) -> int:
    """The one layer that all dictionaries read. ValueError where they differ, and for activations that do not fit."""
    store = ActivationStore(cfg.dataset)
    layers = {
        one.name: layer_of(one, open_recording(one, cfg.dataset, cfg.paths.activations), cfg.layer) for one in found
    }
    layers |= {str(codes.root): codes.manifest.layer for codes in stored}
    if not layers:
        raise ValueError("no dictionary is named: give directories of runs, sweeps, dictionaries or codes.")
    if len({*layers.values()}) > 1:
        raise ValueError(f"the dictionaries read different layers ({layers}): probe those of one layer at a time.")
    return store.resolve_layer(next(iter(layers.values())))


def identity(cfg: DictConfig, data: Labelled, sizes: Mapping[str, int]) -> str:
    """A hash of what the statistics depend on."""
    keys = (
        "dictionaries",
        "tokens",
        "labels",
        "compat",
        "latent_topk",
        "mantissa_bits",
        "budget_gib",
        "nulls",
        "seed",
        "batch_size",
        "val_fraction",
    )
    about = {key: OmegaConf.to_container(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key] for key in keys}
    about |= stamps(cfg) | {"sizes": dict(sizes), "ids": list(data.ids), "names": list(data.names)}
    about["data"] = [[s.store.manifest.fingerprint, s.layer, s.images.tolist()] for s in data.splits]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

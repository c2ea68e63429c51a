"""saev probe: dictionaries and labelled activations -> which latent stands for which class."""

from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig

from saev.config.build import build
from saev.device import check_device
from saev.probing.inputs import open_inputs
from saev.probing.pipeline import CHECKPOINT, probe
from saev.probing.settings import ProbeSettings
from saev.progress import print_line, terminal
from saev.runs.signals import answer_slurm
from saev.runs.tables import print_files, write_table
from saev.training.linear.settings import LinearProbeSettings
from saev.visuals.tables import classes_table, images_table, probe_table, verdicts


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Probe the named dictionaries; a row per dictionary and null. The rows of classes are in classes.parquet."""
    settings, directory = build(ProbeSettings, cfg), Path(cfg.paths.run_dir)
    for named in cfg.dictionaries:
        if not Path(named).is_dir():
            raise ValueError(f"{named} is not there: give finished runs, dictionaries or codes.")
    if not cfg.dataset:
        raise ValueError("dataset is not given: name activations whose tokens have labels, dataset=/path/to/recording.")
    check_device(str(cfg.device))
    answer_slurm()
    named, recordings = list(cfg.dictionaries), {"validation": cfg.validation or None, "layer": cfg.layer}
    bound = build(LinearProbeSettings, cfg.linear_probe) if cfg.linear else None
    if bound is not None:
        from saev.recipes.supervised import check_linear, linear_bound  # imports Lightning, and needs the clone

    inputs = open_inputs(named, cfg.dataset, settings, **recordings)
    if bound is not None:
        check_linear(inputs, bound)
    result = probe(inputs, cfg.dataset, settings, directory=directory, device=cfg.device, keep_checkpoint=cfg.linear)
    tables = result.tables()
    if bound is not None:
        rows = linear_bound(inputs, settings, bound, directory, cfg.device)
        tables["results"] = pl.concat([result.results, rows], how="diagonal_relaxed")
        write_table(directory, "results", tables["results"])
        (directory / CHECKPOINT).unlink(missing_ok=True)
    rows = tables["results"].to_dicts()
    terminal().print(probe_table(rows))
    for line in verdicts(rows, settings.against or "", "map", "mAP"):
        print_line(terminal(), line)
    if tables["classes"]["ap"].count():
        terminal().print(classes_table(tables["classes"].to_dicts()))
    if result.sparse is not None and "image" in settings.sparse.levels and settings.sparse.ridges:
        terminal().print(images_table(result.sparse.to_dicts()))
    print_files({name: directory / f"{name}.parquet" for name in tables})
    return rows

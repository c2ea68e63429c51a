"""saev bench: dictionaries -> every measure beside its null and its interval, and a page that compares them."""

import logging
from pathlib import Path
from typing import Any

import polars as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.config.build import build
from saev.dictionary_bench.altered_images import ALTERATIONS
from saev.dictionary_bench.json_layout import JSON
from saev.dictionary_bench.page import write_bench_page
from saev.dictionary_bench.pipeline import bench
from saev.dictionary_bench.preparing import BenchImages
from saev.dictionary_bench.settings import BenchSettings
from saev.dictionary_bench.shown import bench_tables, left_out, one_per_seed, verdict_lines
from saev.progress import print_line, terminal
from saev.runs.planning import key_of
from saev.runs.signals import answer_slurm
from saev.runs.tables import print_files
from saev.stages.common import check_dictionaries

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Measure and compare the named dictionaries; the rows of the results."""
    settings, directory = build(BenchSettings, cfg), Path(cfg.paths.run_dir)
    check_dictionaries(cfg.dictionaries)
    embedder = instantiate(cfg.embedder) if cfg.get("embedder") is not None else None
    needs_vit = cfg.splice or settings.pairs in ALTERATIONS
    needs_images = needs_vit or embedder is not None
    unread = {key for key, read in (("images", needs_images), ("vit", needs_vit)) if not read}
    idle = [o for o in map(str, HydraConfig.get().overrides.task) if key_of(o) in unread and not o.startswith("vit@")]
    if idle:
        others = "" if needs_images else ", vit@embedder="
        log.warning("%s: no effect without splice=true%s or pairs made from masks", ", ".join(idle), others)
    images = BenchImages(
        instantiate(cfg.images) if needs_images else None, instantiate(cfg.vit) if needs_vit else None, embedder,
        concepts=instantiate(cfg.traits, _convert_="all") if cfg.traits is not None else None,
    )  # fmt: skip
    answer_slurm()
    result = bench(
        list(cfg.dictionaries), cfg.dataset, settings, layer=cfg.layer, images=images, transfer=list(cfg.transfer), splice=cfg.splice,
        directory=directory, activations=cfg.paths.activations, progress=True,
    )  # fmt: skip
    console = terminal()
    members = result.results["member"].to_list()
    first = one_per_seed(members, result.seeds)
    if settings.against:
        print_line(
            console, f"In brackets the null; below it the difference from {settings.against} and its 95 % interval."
        )
    for table in bench_tables(result.measures, first, console.width):
        console.print(table)
    for line in verdict_lines(result.measures.filter(pl.col("member").is_in(first)), settings.against or ""):
        print_line(console, line)
    if len(first) < len(members):
        print_line(console, f"{len(members) - len(first)} further seeds are in the files")
    for reason, labels in left_out(result.measures).items():
        print_line(console, f"not measured, {reason}: {'; '.join(labels)}")
    files = {"results": directory / "results.csv", "measures": directory / "measures.csv", "json": directory / JSON}
    try:
        files["page"] = write_bench_page(
            directory / "bench.html", result.results, result.measures, result.seeds, result.against, files
        )
    except Exception:  # the tables are written, whatever is wrong with the page
        log.exception("bench.html could not be written; the tables are complete")
    print_files(files, "open the page in a browser")
    return result.results.to_dicts()

"""The end of a run: results.parquet and results.csv with a row per SAE, report.html, and what is printed."""

import logging
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from datamodules import ActivationDataModule
from saev.checkpoint import load
from saev.runs.tables import print_files, write_table
from saev.visuals.report import write_report
from saev.visuals.tables import results_table

log = logging.getLogger(__name__)


def git_commit() -> str | None:
    """The commit of the clone that runs, with "+" where files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def finish(cfg: DictConfig, directory: Path, rows: list[dict[str, Any]], data: ActivationDataModule) -> None:
    """Write the report and the results, print the table and where everything is."""
    config = OmegaConf.to_yaml(cfg, resolve=False)
    console = Console()
    files = {
        "results": directory / "results.csv",
        "dictionaries": directory / "saes",
        "metrics": directory / "metrics.jsonl",
    }
    write_table(directory, "results", rows)  # first: a page that fails must not cost the run its numbers
    if cfg.report:
        files["report"] = report(cfg, directory, rows, data, config, files)
    console.print(results_table(rows))
    print_files(files)


def report(
    cfg: DictConfig,
    directory: Path,
    rows: list[dict[str, Any]],
    data: ActivationDataModule,
    config: str,
    files: Mapping[str, Path],
) -> Path:
    """Write report.html with the images behind some latents, where the images can be had."""
    assert data.store is not None
    # of a dataset given by its directory nobody knows where the images are now
    images, vit = (data.recording.images, data.recording.vit) if data.recording is not None else (None, None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    remote = data.store.location.remote
    if remote:
        log.warning("report.html shows no images: %s is remote, its images cannot be read one by one", data.store.name)
    members = [] if remote else [row["member"] for row in rows]
    return write_report(
        directory / "report.html",
        rows,
        {member: load(directory / "saes" / member, device) for member in members},
        store=data.store,
        layer=data.layer,
        tokens=data.tokens,
        examples_are="recorded",
        images=images,
        history=directory / "metrics.jsonl",
        config=config,
        credits=[credit for source in (images, vit) if (credit := credits_of(source))],
        files=files,
        progress=True,
    )


def credits_of(source: Any) -> str:
    """The attribution that an image set or a backbone asks for, or nothing."""
    return source.credits() if hasattr(source, "credits") else ""

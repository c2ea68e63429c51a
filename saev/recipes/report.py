"""The report of a training run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import ActivationDataModule
from saev.checkpoint import load
from saev.device import resolve_device
from saev.images.source import ImageSource
from saev.visuals.report import write_report

log = logging.getLogger(__name__)


def report(
    directory: Path,
    rows: Sequence[dict[str, Any]],
    data: ActivationDataModule,
    config: str,
    files: Mapping[str, Path],
    images: ImageSource | None = None,
) -> Path:
    """Write report.html; its path. Shows the images behind some latents where `images`, or the recording's own, can be read."""
    assert data.store is not None
    # a dataset given by its directory does not say where its images are now
    images = data.recording.images if images is None and data.recording is not None else images
    vit = data.recording.vit if data.recording is not None else None
    remote = data.store.location.remote
    if remote:
        log.warning("report.html shows no images: %s is remote, its images cannot be read one by one", data.store.name)
    names = [] if remote else [row["member"] for row in rows]
    return write_report(
        directory / "report.html",
        rows,
        {name: load(directory / "saes" / name, resolve_device("auto")) for name in names},
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
    """The attribution that an image set or a backbone asks for; "" for none."""
    return source.credits() if hasattr(source, "credits") else ""

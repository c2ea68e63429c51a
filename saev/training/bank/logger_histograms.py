"""Histograms for the loggers that can draw them."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from saev.metrics.histograms import FREQUENCY_EDGES, centres

# Bins of each distribution: exponents of ten.
EDGES = {"frequency_histogram": FREQUENCY_EDGES}


def log_histogram(logger: Logger, name: str, counts: Sequence[int], edges: tuple[float, ...], step: int) -> None:
    """Log a histogram over log10 to TensorBoard or W&B; other loggers have no histograms."""
    if isinstance(logger, TensorBoardLogger):
        pairs = list(zip(counts, centres(edges), strict=True))
        logger.experiment.add_histogram_raw(
            name, min=edges[0], max=edges[-1], num=sum(counts), sum=sum(n * x for n, x in pairs),
            sum_squares=sum(n * x * x for n, x in pairs), bucket_limits=list(edges[1:]), bucket_counts=list(counts),
            global_step=step,
        )  # fmt: skip
    elif isinstance(logger, WandbLogger):
        import wandb

        histogram: Any = wandb.Histogram(np_histogram=(list(counts), list(edges)))  # type: ignore[arg-type]
        logger.log_metrics({name: histogram}, step)

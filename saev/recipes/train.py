"""Train a bank of SAEs on a recording: `saev.train`, and what `saev train` calls.

recording ──▶ ActivationDataModule ─┐
members ──▶ SAEBank ──▶ BankModule ─┴─ Trainer ──▶ saes/<member>, results.parquet, report.html
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import polars as pl
import torch
import yaml

from callbacks import MetricsWriter
from datamodules import ActivationDataModule
from saev.images.source import ImageSource
from saev.nn import Member, Normaliser, SAEBank
from saev.recipes.announcing import announce
from saev.recipes.report import RunReport, rows_of
from saev.recipes.trainer import LightningParts, build_trainer, interrupted_by
from saev.runs.directory import new_directory, open_run
from saev.runs.ledger import CHECKPOINT
from saev.runs.signals import answer_slurm, rank
from saev.runs.tables import write_table
from saev.saved import SavedDictionary, find_dictionaries
from saev.shards import ActivationStore
from saev.training.bank.module import BankModule, OptimiserFactory
from saev.training.lightning import ended, leave_processes, quieten_lightning, started
from saev.training.settings import TrainSettings
from saev.visuals.columns import remarks

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainedBank:
    """A finished run: its directory, a row of held-out metrics per member, and the written files by name."""

    directory: Path
    results: pl.DataFrame
    files: Mapping[str, Path]

    @property
    def dictionaries(self) -> list[SavedDictionary]:
        """The trained members, in the order of `results`."""
        return find_dictionaries([self.directory / "saes" / name for name in self.results["member"]])


def train(
    recording: ActivationStore | ActivationDataModule | str | Path,
    layer: int,
    members: Sequence[Member],
    n_tokens: int | None = None,
    *,
    settings: TrainSettings | None = None,
    directory: str | Path | None = None,
    configuration: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    images: ImageSource | None = None,
    lightning: LightningParts | None = None,
) -> TrainedBank:
    """Train the members on the same batches, validate them on held-out images, and save them.

    A signal or Ctrl-C saves a checkpoint and exits with 128 + signal; the same call with the same `directory` resumes it.

    Args:
        recording: a recording or its directory; or a datamodule, which then determines tokens, batches and held-out images.
        layer: block index; negative ones count from the last recorded block.
        members: the settings of each SAE.
        n_tokens: tokens to train on, over as many epochs as that takes; None: `settings.n_tokens`, whose None is 100 M or 10 epochs.
        settings: what all members share.
        directory: where the run is written; None: a new directory below outputs/train.
        configuration: what config.yaml holds, and is compared when the directory is used again; None: these arguments.
        resume: a checkpoint to continue; a checkpoint in `directory` comes first.
        images: the images that were recorded, for the report; None: without photos, unless the datamodule knows them.
        lightning: trainer, optimiser, callbacks and loggers.

    Raises:
        ValueError: a setting does not fit the recording, or `directory` holds a run with other settings.
    """
    settings = dataclasses.replace(settings or TrainSettings(), **({} if n_tokens is None else {"n_tokens": n_tokens}))
    if not members:
        raise ValueError("members: must hold at least one saev.Member, e.g. [saev.Member(saev.BatchTopK(32))].")
    parts, directory = lightning or LightningParts(), Path(directory or new_directory("train"))
    configuration = configuration or arguments(recording, layer, members, settings)
    members = [dataclasses.replace(member, lr=member.rate(settings.n_tokens)) for member in members]
    if isinstance(recording, ActivationDataModule):
        for key, value in {"layer": layer, "n_tokens": n_tokens}.items():
            if value is not None and value != getattr(recording, key):
                raise ValueError(
                    f"{key}={value}: the datamodule has {key}={getattr(recording, key)}; pass the same value, or a recording."
                )
    if isinstance(recording, ActivationDataModule):
        data = recording
    else:
        store = recording if isinstance(recording, ActivationStore) else ActivationStore(recording)
        settings = settings.sized(available_tokens(store, layer, settings.tokens))
        data = stream(store, layer, settings)
    answer_slurm()
    quieten_lightning()
    torch.set_float32_matmul_precision(settings.matmul_precision)
    with open_run(directory, configuration, ckpt_path=resume, first_process=rank() == 0) as checkpoint:
        data.prepare_data()
        data.setup("fit")
        page_config = yaml.safe_dump(dict(configuration), sort_keys=False)
        page = RunReport(directory, members, data, page_config, images) if settings.report else None
        trainer = build_trainer(members, data, settings, parts, directory, page and page.write_unfinished)
        module = build_module(members, data, settings, parts.optimiser, trainer.max_steps * data.batch_size)
        if trainer.is_global_zero:
            announce(members, data, directory, trainer.max_steps)
        try:
            trained = run(trainer, module, members, data, directory, checkpoint, page)
            if trainer.is_global_zero and not settings.keep_checkpoint:
                (directory / CHECKPOINT).unlink(missing_ok=True)
            return trained
        finally:  # also when interrupted: logged metrics reach the disk
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MetricsWriter):
                    callback.close()
            leave_processes(trainer)


def arguments(recording: Any, layer: int, members: Sequence[Member], settings: TrainSettings) -> dict[str, Any]:
    """The arguments of a call as config.yaml holds them."""
    root = recording.dataset if isinstance(recording, ActivationDataModule) else getattr(recording, "root", recording)
    return {
        "dataset": str(root),
        "layer": layer,
        "members": [{**member.row(), **dataclasses.asdict(member)} for member in members],  # row: the kinds, too
        **dataclasses.asdict(settings),
    }


def available_tokens(store: ActivationStore, layer: int, tokens: str) -> float:
    """About how many tokens of these roles are not held out, with the datamodule's default val_fraction."""
    start, stop = store.role_slice(tokens)
    counts = store.tokens_per_image(store.resolve_layer(layer))
    return 0.9 * float((np.minimum(counts, counts if stop < 0 else stop) - start).clip(0).sum())


def stream(store: ActivationStore, layer: int, settings: TrainSettings) -> ActivationDataModule:
    """The training and held-out batches of a recording."""
    return ActivationDataModule(
        store.location.root, layer, settings.batch, tokens=settings.tokens, ignore_labels=settings.ignore_labels,
        n_tokens=settings.n_tokens, subset_tokens=settings.subset_tokens, seed=settings.data_seed,
        pool=max(1 << 20, 4 * settings.batch),
    )  # fmt: skip


def run(
    trainer: L.Trainer,
    module: BankModule,
    members: Sequence[Member],
    data: ActivationDataModule,
    directory: Path,
    resumed: Path | None,
    page: RunReport | None,
) -> TrainedBank:
    """Fit, validate on the held-out images and write the results; SystemExit where a signal ended the fit."""
    try:
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except RuntimeError as error:  # of a collective that lost a process
        if interrupted_by(trainer) is None:
            if not (which := ended(started(trainer))):
                raise
            raise ValueError(
                f"{which} of this run has ended; resume from the last checkpoint with ckpt_path={directory}, or repeat the command if "
                "there is none yet."
            ) from error
    if (checkpoint := interrupted_by(trainer)) is not None:
        if trainer.is_global_zero:
            remedy = checkpoint.remedy(trainer, directory)
            log.warning("stopped at step %d of %d%s", trainer.global_step, trainer.max_steps, remedy)
            if page is not None:
                with page_errors_logged("the checkpoint is complete"):
                    page.write_unfinished(trainer, module, remedy)
        raise SystemExit(128 + (checkpoint.received or 0))
    trainer.validate(module, data, verbose=False)
    rows = collect(members, module, data)
    files = {
        "results": directory / "results.csv",
        "dictionaries": directory / "saes",
        "metrics": directory / "metrics.jsonl",
    }
    if trainer.is_global_zero:
        write_table(directory, "results", rows)  # first: a page that fails must not cost the run its metrics
        if page is not None:
            with page_errors_logged("results and dictionaries are complete"):
                files["report"] = page.write(rows, files)
    return TrainedBank(directory, pl.DataFrame(rows, infer_schema_length=None), files)


@contextlib.contextmanager
def page_errors_logged(complete: str) -> Iterator[None]:
    """Log an error of the page: the run has everything else."""
    try:
        yield
    except Exception:
        log.exception("report.html could not be written; %s", complete)


def build_module(
    members: Sequence[Member],
    data: ActivationDataModule,
    settings: TrainSettings,
    optimiser: OptimiserFactory,
    n_tokens: int,
) -> BankModule:
    """The bank, initialised from the first training tokens, in its LightningModule; the run has `n_tokens`."""
    assert data.store is not None
    normaliser = Normaliser.fit(data.store.moments(data.layer, data.tokens), settings.normalise)
    # one sample per size, so that a member's start does not depend on the other members
    sample = functools.cache(lambda n_tokens: normaliser(data.sample(n_tokens)))
    width = data.store.d_model
    bank = SAEBank([member.build(normaliser, sample(member.sample_tokens(width)), n_tokens) for member in members])
    return BankModule(bank, optimiser, settings.warmup, settings.decay, settings.clip, settings.products)


def collect(members: Sequence[Member], module: BankModule, data: ActivationDataModule) -> list[dict[str, Any]]:
    """A row per member: its settings and the metrics of the final validation."""
    # not measured, e.g. dead_train in a run shorter than dead_tokens: null rather than NaN
    tokens = int(module.tokens_seen)
    metrics = [
        {"member": trained.name, "tokens": tokens}
        | {key: value if trained.stopped or math.isfinite(value) else None for key, value in row.items()}
        for trained, row in zip(module.bank, module.validated_rows(), strict=True)
    ]
    rows = rows_of(members, module, data, metrics)
    for row in rows if module.global_rank == 0 else ():
        for remark in remarks(row):
            log.warning("%s: %s", row["member"], remark)
    return rows

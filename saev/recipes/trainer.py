"""Lightning's part of a training run: the trainer with its callbacks and loggers."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.loggers import Logger

from callbacks import Checkpoint, MemberExport, MetricsWriter, Page
from datamodules import ActivationDataModule
from saev.nn import Member
from saev.recipes.callbacks import default_callbacks
from saev.runs.provenance import git_commit
from saev.training.bank.ddp import check_members
from saev.training.bank.module import BankModule, OptimiserFactory
from saev.training.settings import TrainSettings


def one_device(**arguments: Any) -> L.Trainer:
    """A trainer on the GPU where there is one, else on the CPU."""
    return L.Trainer(accelerator="auto", devices=1, **arguments)


def adam(groups: Any) -> torch.optim.Optimizer:
    """Adam with one kernel for all parameters of the bank."""
    return torch.optim.Adam(groups, fused=True)


@dataclasses.dataclass(frozen=True)
class LightningParts:
    """What Lightning brings to a run; the defaults train on one device and write metrics.jsonl alone."""

    trainer: Callable[..., L.Trainer] = one_device  # given what the run determines: steps, intervals, callbacks
    optimiser: OptimiserFactory = adam  # given parameter groups
    callbacks: Sequence[L.Callback] | None = None  # None: default_callbacks
    loggers: Callable[[str], Sequence[Logger]] | None = None  # given a member's name; metrics.jsonl is always written
    processes: int = 1  # that `trainer` starts, over all nodes
    split_members: bool = False  # whether they divide the members instead of the batches


def build_trainer(
    members: Sequence[Member],
    data: ActivationDataModule,
    settings: TrainSettings,
    parts: LightningParts,
    directory: Path,
    page: Callable[[L.Trainer, BankModule], object] | None = None,
) -> L.Trainer:
    """Lightning's Trainer with the callbacks, the export of members, the writer of metrics and, last, `page`, called at validations."""
    callbacks = list(default_callbacks(settings, directory) if parts.callbacks is None else parts.callbacks)
    hyperparameters = {member.name: member.row() for member in members}
    callbacks.append(MemberExport(directory / "saes", hyperparameters, provenance(data, settings.normalise)))
    shared = {"layer": data.layer, "batch_size": data.batch_size, "n_tokens": data.n_tokens}
    loggers = {member.name: list(parts.loggers(member.name)) if parts.loggers else [] for member in members}
    for name, of_member in loggers.items():
        for logger in of_member:
            logger.log_hyperparams({**hyperparameters[name], **shared})
    callbacks.append(MetricsWriter(directory / "metrics.jsonl", loggers))
    if page is not None:
        callbacks.append(Page(page))  # type: ignore[arg-type]
    # Lightning would answer Slurm's signals itself, beside callbacks.Checkpoint
    plugins = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None
    if parts.split_members:  # then all processes read the same stream
        check_members(parts.processes, len(members))
    return parts.trainer(
        callbacks=callbacks,
        max_steps=data.n_steps(1 if parts.split_members else parts.processes),
        max_epochs=-1,  # the run ends after n_tokens
        val_check_interval=settings.val_every,
        check_val_every_n_epoch=None,
        log_every_n_steps=settings.log_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the stream divides itself
        default_root_dir=directory,
        plugins=plugins,
        logger=False,  # MetricsWriter
        enable_checkpointing=False,  # callbacks.Checkpoint
        enable_progress_bar=False,  # callbacks.BankProgress
        enable_model_summary=False,
    )


def provenance(data: ActivationDataModule, normalise: str) -> dict[str, Any]:
    """What the members are trained on, for their config.json."""
    assert data.store is not None
    manifest = data.store.manifest
    return {
        "dataset": data.store.name,
        "dataset_fingerprint": manifest.fingerprint,
        "vit": manifest.meaning.get("vit"),
        "images": manifest.meaning.get("images"),
        "layer": data.layer,
        "hook": manifest.meaning.get("hook"),
        "token_roles": data.tokens,
        "ignore_labels": list(data.ignore_labels),
        # from these evaluation computes which images were held out
        "held_out": data.held_out(),
        "subset_tokens": data.subset_tokens,
        "normalise": normalise,
        **({"stored": False} if data.reader == "live" else {}),
        "git_commit": git_commit(),
    }


def interrupted_by(trainer: L.Trainer) -> Checkpoint | None:
    """The callback with the signal that ended the fit before its last step; None without one."""
    received = [c for c in trainer.callbacks if isinstance(c, Checkpoint) and c.received]  # type: ignore[attr-defined]
    return received[0] if received and trainer.global_step < trainer.max_steps else None

"""The training of a planned bank on Lightning: module, trainer, loggers, and what is said before and after."""

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict

from callbacks import Checkpoint, MemberExport, MetricsWriter
from datamodules import ActivationDataModule
from saev.config.members import Planned
from saev.config.processes import processes, relaunchable
from saev.nn.bank import SAEBank
from saev.nn.normalise import Normaliser
from saev.recipes.results import finish, git_commit
from saev.runs.directory import open_run, run_id
from saev.runs.ledger import FILE as SWEEP
from saev.runs.signals import answer_slurm
from saev.training.bank.ddp import check_members
from saev.training.bank.module import BankModule
from saev.training.lightning import leave_processes, quieten_lightning

log = logging.getLogger(__name__)


def fit(cfg: DictConfig, planned: list[Planned], recording: Any) -> dict[str, float]:
    """Train, validate and report; held-out NMSE by member. Exits with 128 + signal when one ended it early.

    `recording` makes the dataset where the configuration names none.
    """
    answer_slurm()
    quieten_lightning()
    directory = Path(cfg.paths.run_dir)
    configuration: Any = OmegaConf.to_container(cfg, resolve=False)
    first = not rank_zero_only.rank  # its further processes share the lock
    with open_run(directory, configuration, ckpt_path=cfg.ckpt_path, first_process=first) as checkpoint:
        cfg.ckpt_path = checkpoint and str(checkpoint)
        return train(cfg, planned, recording, directory)


def train(cfg: DictConfig, planned: list[Planned], recording: Any, directory: Path) -> dict[str, float]:
    """`fit`, once this process has the run's directory to itself."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    data: ActivationDataModule = instantiate(cfg.datamodule, _partial_=True)(recording=recording)
    data.prepare_data()
    data.setup("fit")
    module = build_module(cfg, planned, data)
    if processes(cfg.trainer) > 1:
        relaunchable(directory)
    trainer = build_trainer(cfg, planned, data, directory)
    if trainer.is_global_zero:
        announce(cfg, planned, data, directory, trainer.max_steps)
    try:
        return run_trainer(cfg, planned, trainer, module, data, directory)
    finally:  # interrupted or not: what was logged is on disk
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, MetricsWriter):
                callback.close()
        leave_processes(trainer)


def run_trainer(
    cfg: DictConfig,
    planned: list[Planned],
    trainer: L.Trainer,
    module: BankModule,
    data: ActivationDataModule,
    directory: Path,
) -> dict[str, float]:
    """Fit, validate on the held-out images, and leave the results; see `fit`."""
    trainer.fit(module, data, ckpt_path=cfg.ckpt_path, weights_only=True)
    if received := interrupted_by(trainer):
        log.warning(
            "stopped at step %d of %d; go on with: ckpt_path=%s", trainer.global_step, trainer.max_steps, directory
        )
        raise SystemExit(128 + received)
    trainer.validate(module, data, verbose=False)
    rows = collect(planned, module, data)
    if trainer.is_global_zero:
        finish(cfg, directory, rows, data)
    return {row["member"]: row["nmse"] for row in rows}


def build_module(cfg: DictConfig, planned: list[Planned], data: ActivationDataModule) -> BankModule:
    """The bank, initialised from the first training tokens, in its LightningModule."""
    assert data.store is not None
    normaliser = Normaliser.fit(data.store.moments(data.layer, data.tokens), cfg.normalise)
    # a sample of its own for each size: no member's start depends on what others want; one for equal sizes
    sample = functools.cache(lambda n_tokens: normaliser(data.sample(n_tokens)))
    width = data.store.d_model
    bank = SAEBank([plan.spec.build(normaliser, sample(plan.spec.sample_tokens(width))) for plan in planned])
    return BankModule(bank, instantiate(cfg.optimiser), cfg.warmup, cfg.decay, cfg.clip, cfg.products)


def build_trainer(cfg: DictConfig, planned: list[Planned], data: ActivationDataModule, directory: Path) -> L.Trainer:
    """Lightning's Trainer with the configured callbacks, the export of members, and the writer of numbers last."""
    settings = {plan.spec.name: plan.settings for plan in planned}
    callbacks = [callback for callback in instantiate(cfg.callbacks).values() if callback is not None]
    callbacks.append(MemberExport(directory / "saes", settings, provenance(data, cfg.normalise)))
    callbacks.append(MetricsWriter(directory / "metrics.jsonl", member_loggers(cfg, settings)))
    # Lightning would answer Slurm's signals by itself, beside callbacks.Checkpoint
    plugins = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None
    by_members = OmegaConf.select(cfg.trainer, "strategy.split") == "members"  # then all processes read the same stream
    if by_members:
        check_members(processes(cfg.trainer), len(planned))
    steps = data.n_steps(1 if by_members else processes(cfg.trainer))
    return instantiate(cfg.trainer, callbacks=callbacks, max_steps=steps, plugins=plugins)


def member_loggers(cfg: DictConfig, settings: dict[str, dict[str, Any]]) -> dict[str, list]:
    """For each member its own instance of every configured logger, given the member's settings."""
    loggers = {}
    directory = Path(cfg.paths.run_dir)
    (group, job), token = names_of(directory), run_id(directory)
    for member, own in settings.items():
        with open_dict(cfg):
            cfg.member = member
            cfg.paths.run_name = group
            cfg.paths.member_name = f"{job}/{member}" if job else member
            # the same after resuming, so that W&B goes on with the run
            cfg.paths.member_id = hashlib.sha256(f"{token}/{member}".encode()).hexdigest()[:12]
        loggers[member] = list(instantiate(cfg.logger).values())
        for logger in loggers[member]:
            logger.log_hyperparams({**own, "layer": cfg.layer, "batch_size": cfg.batch_size, "n_tokens": cfg.n_tokens})
    return loggers


def names_of(directory: Path) -> tuple[str, str]:
    """(what groups the members' loggers: the sweep or the run, by date; what tells the job from others of its sweep)."""
    if (directory.parent / SWEEP).is_file():
        return "/".join(directory.parts[-3:-1]), directory.name.partition("_")[2]
    return "/".join(directory.parts[-2:]), ""


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
        # so that `saev evaluate` finds the images again that were not trained on
        "held_out": {"fraction": data.val_fraction, "tokens": data.val_tokens, "by_shard": data.reader == "streamed"},
        "normalise": normalise,
        "git_commit": git_commit(),
    }


def announce(cfg: DictConfig, planned: list[Planned], data: ActivationDataModule, directory: Path, steps: int) -> None:
    """Say what is about to be done."""
    assert data.store is not None
    stream = data.stream(data.train_examples)
    log.info("run directory: %s", directory)
    log.info("activations: %s, layer %d, d_model %d", data.store.location.root, data.layer, data.store.d_model)
    log.info(
        "training %d SAEs (%s) for %d steps of %d tokens: %.2f epochs of %d tokens from %d images; %d images held out",
        len(planned), "; ".join(plan.spec.name for plan in planned), steps, cfg.batch_size,
        steps / stream.n_batches, stream.n_tokens, len(data.train_examples), len(data.val_examples),
    )  # fmt: skip


def interrupted_by(trainer: L.Trainer) -> int | None:
    """The signal that ended the fit before its last step, if one did."""
    received = [c.received for c in trainer.callbacks if isinstance(c, Checkpoint) and c.received]  # type: ignore[attr-defined]
    return received[0] if received and trainer.global_step < trainer.max_steps else None


def collect(planned: list[Planned], module: BankModule, data: ActivationDataModule) -> list[dict[str, Any]]:
    """A row per member: its settings and the metrics of the final validation."""
    rows = []
    for plan, member, metrics in zip(planned, module.bank, module.validated_rows(), strict=True):
        row = {"member": member.name, **plan.settings, "d_sae": member.sae.n_latents, "layer": data.layer, **metrics}
        rows.append({**row, "train_tokens": int(module.tokens_seen), "failed": member.stopped})
    return rows

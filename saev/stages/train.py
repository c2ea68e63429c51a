"""saev train: plan the members, see that everything is there, record where needed, train, validate, report."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from callbacks import Interruption, MemberExport, MetricsWriter
from datamodules import ActivationDataModule
from saev.checkpoint import load
from saev.nn.bank import SAEBank
from saev.nn.normalise import Normaliser
from saev.stages.members import Planned, plan_members
from saev.stages.results import git_commit, write_results
from saev.training.bank_module import BankModule
from saev.visuals.table import results_table

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, float]:
    """Train the configured bank; the held-out NMSE of each member. Exits with 128 + signal when one ended it early."""
    quieten_lightning()
    directory = Path(cfg.paths.run_dir)
    planned = plan_members(cfg)
    data: ActivationDataModule = instantiate(cfg.datamodule)
    data.check()
    data.prepare_data()
    data.setup("fit")
    module = build_module(cfg, planned, data)
    trainer = build_trainer(cfg, planned, data, directory)
    announce(cfg, planned, data, directory)
    trainer.fit(module, data, ckpt_path=cfg.ckpt_path, weights_only=True)
    if received := interrupted_by(trainer):
        log.warning("stopped at step %d of %d; go on with: ckpt_path=%s", trainer.global_step, data.n_steps, directory)
        raise SystemExit(128 + received)
    trainer.validate(module, data, verbose=False)
    rows = collect(planned, module, data)
    if trainer.is_global_zero:
        finish(cfg, directory, rows, data)
    return {row["member"]: row["nmse"] for row in rows}


def quieten_lightning() -> None:
    """Leave out what Lightning says of itself: advertisements, device lists, and warnings that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning's own use of torch
        r".*Using ModelCheckpoint with manual optimization",  # a checkpoint after the step is the one we resume from
        r".*Consider increasing the value of the `num_workers`",  # the stream has its own threads
    ):
        warnings.filterwarnings("ignore", message)


def build_module(cfg: DictConfig, planned: list[Planned], data: ActivationDataModule) -> BankModule:
    """The bank, initialised from the first training tokens, in its LightningModule."""
    assert data.store is not None
    normaliser = Normaliser.fit(data.store.moments(data.layer), cfg.normalise)
    sample = normaliser(data.sample(INIT_TOKENS))
    bank = SAEBank([plan.spec.build(normaliser, sample) for plan in planned])
    return BankModule(bank, instantiate(cfg.optimiser), cfg.warmup, cfg.decay, cfg.clip)


INIT_TOKENS = 16384


def build_trainer(cfg: DictConfig, planned: list[Planned], data: ActivationDataModule, directory: Path) -> L.Trainer:
    """Lightning's Trainer with the configured callbacks, the export of members, and the writer of numbers last."""
    settings = {plan.spec.name: plan.settings for plan in planned}
    callbacks = [callback for callback in instantiate(cfg.callbacks).values() if callback is not None]
    callbacks.append(MemberExport(directory / "saes", settings, provenance(cfg, data)))
    callbacks.append(MetricsWriter(directory / "metrics.jsonl", member_loggers(cfg, settings)))
    return instantiate(cfg.trainer, callbacks=callbacks, max_steps=data.n_steps)


def member_loggers(cfg: DictConfig, settings: dict[str, dict[str, Any]]) -> dict[str, list]:
    """For each member its own instance of every configured logger, given the member's settings."""
    loggers = {}
    for member, own in settings.items():
        with open_dict(cfg):
            cfg.member = member
        loggers[member] = list(instantiate(cfg.logger).values())
        for logger in loggers[member]:
            logger.log_hyperparams({**own, "layer": cfg.layer, "batch_size": cfg.batch_size, "n_tokens": cfg.n_tokens})
    return loggers


def provenance(cfg: DictConfig, data: ActivationDataModule) -> dict[str, Any]:
    """What the members are trained on, for their config.json."""
    assert data.store is not None
    manifest = data.store.manifest
    return {
        "dataset": data.store.root.name,
        "dataset_fingerprint": manifest.fingerprint,
        "vit": manifest.meaning.get("vit"),
        "images": manifest.meaning.get("images"),
        "layer": data.layer,
        "token_roles": data.tokens,
        "normalise": cfg.normalise,
        "git_commit": git_commit(),
    }


def announce(cfg: DictConfig, planned: list[Planned], data: ActivationDataModule, directory: Path) -> None:
    """Say what is about to be done."""
    assert data.store is not None
    stream = data.stream(data.train_examples)
    log.info("run directory: %s", directory)
    log.info("activations: %s, layer %d, d_model %d", data.store.root, data.layer, data.store.d_model)
    log.info(
        "training %d SAEs (%s) for %d steps of %d tokens: %.2f epochs of %d tokens from %d images; %d images held out",
        len(planned), "; ".join(plan.spec.name for plan in planned), data.n_steps, cfg.batch_size,
        data.n_steps / stream.n_batches, stream.n_tokens, len(data.train_examples), len(data.val_examples),
    )  # fmt: skip


def interrupted_by(trainer: L.Trainer) -> int | None:
    """The signal that ended the fit before its last step, if one did."""
    received = [c.received for c in trainer.callbacks if isinstance(c, Interruption) and c.received]  # type: ignore[attr-defined]
    return received[0] if received and trainer.global_step < trainer.max_steps else None


def collect(planned: list[Planned], module: BankModule, data: ActivationDataModule) -> list[dict[str, Any]]:
    """A row per member: its settings and the metrics of the final validation."""
    rows = []
    for plan, member, metrics in zip(planned, module.bank, module.validated_rows(), strict=True):
        row = {"member": member.name, **plan.settings, "d_sae": member.sae.n_latents, "layer": data.layer, **metrics}
        rows.append({**row, "train_tokens": int(module.tokens_seen), "failed": member.stopped})
    return rows


def finish(cfg: DictConfig, directory: Path, rows: list[dict[str, Any]], data: ActivationDataModule) -> None:
    """Write the report and the results, print the table and where everything is."""
    config = OmegaConf.to_yaml(cfg, resolve=False)
    (directory / "config.yaml").write_text(config)
    console = Console()
    files = {"results": directory / "results.csv", "dictionaries": directory / "saes", "metrics": directory / "metrics.jsonl"}
    if cfg.report:
        files["report"] = report(cfg, directory, rows, data, config, files)
    write_results(directory, rows)
    console.print(results_table(rows))
    for name, path in files.items():
        console.print(f"{name + ':':<13} {path}", soft_wrap=True, highlight=False)


def report(
    cfg: DictConfig,
    directory: Path,
    rows: list[dict[str, Any]],
    data: ActivationDataModule,
    config: str,
    files: Mapping[str, Path],
) -> Path:
    """Write report.html with the images behind some latents, where the images can be had."""
    from saev.visuals.report import write_report

    assert data.store is not None
    images = instantiate(cfg.images) if cfg.dataset is None else None
    return write_report(
        directory / "report.html",
        rows,
        {row["member"]: load(directory / "saes" / row["member"]) for row in rows},
        store=data.store,
        layer=data.layer,
        tokens=data.tokens,
        images=images,
        history=directory / "metrics.jsonl",
        config=config,
        credits=[credit for source in (images, instantiate(cfg.vit)) if (credit := credits_of(source))],
        files=files,
        progress=True,
    )


def credits_of(source: Any) -> str:
    """The attribution that an image set or a backbone asks for, or nothing."""
    return source.credits() if hasattr(source, "credits") else ""

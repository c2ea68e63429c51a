"""The report of a training run: during training, after a stop and at its end."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from datamodules import ActivationDataModule
from saev.checkpoint import load
from saev.device import resolve_device
from saev.images.source import ImageSource
from saev.nn import Member
from saev.recipes.trainer import provenance
from saev.runs.baselines import fitted_baselines
from saev.training.bank.module import BankModule
from saev.visuals.history import last_validation
from saev.visuals.report import write_report

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunReport:
    """Writes report.html of a run. `config`: YAML text. `images`: those that were recorded; None: the recording's own."""

    directory: Path
    members: Sequence[Member]
    data: ActivationDataModule
    config: str
    images: ImageSource | None = None

    def write(
        self, rows: Sequence[dict[str, Any]], files: Mapping[str, Path], notice: str = "", latents: bool = True
    ) -> Path:
        """Write the page; its path. With `latents` it shows the images behind some latents of the saved members, where images can be
        read, in a second pass over the recording."""
        data, store = self.data, self.data.store
        assert store is not None
        # a dataset given by its directory does not say where its images are now
        images = data.recording.images if self.images is None and data.recording is not None else self.images
        vit = data.recording.vit if data.recording is not None else None
        if latents and store.location.remote:
            latents = False
            notice = f"No latents are shown: {store.name} is remote, its images cannot be read one by one."
            log.warning("report.html shows no images: %s is remote, its images cannot be read one by one", store.name)
        if latents and data.reader == "live":
            latents = False
            notice = "No latents are shown: the activations were not stored (datamodule.reader=live). Record them for saev show."
        names = [row["member"] for row in rows] if latents else []
        n_tokens = {row["n_tokens"] for row in rows if row.get("n_tokens")}
        trained_on = provenance(data, "")
        return write_report(
            self.directory / "report.html",
            rows,
            {name: load(self.directory / "saes" / name, resolve_device("auto")) for name in names},
            store=store,
            layer=data.layer,
            tokens=data.tokens,
            examples_are="recorded",
            images=images,
            history=self.directory / "metrics.jsonl",
            config=self.config,
            credits=[credit for source in (images, vit) if (credit := credits_of(source))],
            files=files,
            baselines=fitted_baselines(trained_on, n_tokens.pop()) if len(n_tokens) == 1 else [],
            notice=notice,
            progress=latents,
        )

    def write_unfinished(self, trainer: L.Trainer, module: BankModule, stopped: str | None = None) -> Path:
        """Write the page of a run that is not finished, with the numbers of its last validation and without latents; its path.

        `stopped`: how a run that was stopped resumes; None: it is training.
        """
        lines = last_validation(self.directory / "metrics.jsonl")
        steps = f"at step {trainer.global_step} of {trainer.max_steps}"
        notice = f"Training is {steps}." if stopped is None else f"Training stopped {steps}{stopped}."
        measured = (
            f"The numbers are those of the validation at step {lines[0]['step']}"
            if lines
            else "There was no validation yet"
        )
        rows = rows_of(self.members, module, self.data, lines)
        files = {"metrics": self.directory / "metrics.jsonl"}
        notice = f"{notice} {measured}; the images behind latents follow when the training has ended."
        return self.write(rows, files, notice, latents=False)


def rows_of(
    members: Sequence[Member],
    module: BankModule,
    data: ActivationDataModule,
    metrics: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """A row per member with metrics: its settings and the metrics, which have `member` and `tokens`, those it was trained on."""
    by_name = {str(of["member"]): of for of in metrics}
    rows = []
    for member, trained in zip(members, module.bank, strict=True):
        if trained.name in by_name:
            settings = {**member.row(), "d_sae": trained.sae.n_latents, "dead_tokens": trained.dead_tokens}
            numbers = {
                key: value
                for key, value in by_name[trained.name].items()
                if key not in ("step", "split", "tokens", "member")
            }
            ended = {"train_tokens": int(by_name[trained.name]["tokens"]), "failed": trained.stopped}
            rows.append({"member": trained.name, **settings, **data.where(), **numbers, **ended})
    return rows


def credits_of(source: Any) -> str:
    """The attribution that an image set or a backbone asks for; "" for none."""
    return source.credits() if hasattr(source, "credits") else ""

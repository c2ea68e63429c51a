"""Saves each member as a dictionary that needs no Lightning: `saev.load(run/saes/<member>)`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from saev.checkpoint import save_dictionary
from saev.files import write_atomically
from saev.training.bank.module import BankModule


class MemberExport(L.Callback):
    """Writes saes/<member>/{dictionary.safetensors, start.safetensors, config.json, metrics.json} after the final validation.

    `settings`: the settings of each member; `provenance`: the data that all of them were trained on.
    """

    def __init__(self, directory: str | Path, settings: Mapping[str, Mapping[str, Any]], provenance: Mapping[str, Any]):
        self.directory, self.settings, self.provenance = Path(directory), settings, provenance

    def on_validation_end(self, trainer: L.Trainer, pl_module: BankModule) -> None:  # type: ignore[override]
        if trainer.state.fn != TrainerFn.VALIDATING or not trainer.is_global_zero:
            return
        tokens = int(pl_module.tokens_seen)
        for member, metrics in zip(pl_module.bank, pl_module.validated_rows(), strict=True):
            directory = save_dictionary(
                member.sae,
                self.directory / member.name,
                start=member.start,
                hyperparameters=dict(self.settings[member.name]),
                provenance={**self.provenance, "tokens": tokens, "failed": member.stopped},
                metrics=metrics,
            )
            write_atomically(directory / "metrics.json", json.dumps(metrics, indent=1).encode())

"""The callbacks of a run that names none: those of conf/callbacks/default.yaml."""

from pathlib import Path

import lightning as L

from callbacks import (
    BankProgress,
    Checkpoint,
    Coherence,
    DeadUnits,
    FrequencyHistogram,
    MemberCost,
    Mixing,
    Probe,
    SparsityWarmup,
    Throughput,
)
from saev.runs.ledger import CHECKPOINT
from saev.training.settings import TrainSettings


def default_callbacks(settings: TrainSettings, directory: Path) -> list[L.Callback]:
    """New instances, in the order of conf/callbacks/default.yaml."""
    probe = settings.probe
    return [
        SparsityWarmup(settings.sparsity_warmup),
        DeadUnits(),
        Coherence(),
        Mixing(),
        FrequencyHistogram(),
        Probe(probe.dataset, probe.images, probe.tokens),
        Throughput(),
        MemberCost(),
        Checkpoint(directory / CHECKPOINT, settings.val_every),
        BankProgress(),
    ]

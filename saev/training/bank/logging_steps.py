"""Logging steps: callbacks compute nothing at other steps."""

import lightning as L


def due(trainer: L.Trainer, every_n_steps: int | None = None) -> bool:
    """Whether the step just finished is a logging step (every `trainer.log_every_n_steps`, or as given)."""
    return trainer.global_step % (every_n_steps or trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]

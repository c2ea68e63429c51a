"""Hydra finds plugins in the namespace package hydra_plugins; nothing heavy may be imported here."""

from hydra_plugins.saev_sweeper.sweeper import SharedPassSweeper

__all__ = ["SharedPassSweeper"]

"""Hydra finds plugins in the namespace package hydra_plugins; only light imports here."""

from hydra_plugins.saev_sweeper.sweeper import SharedPassSweeper

__all__ = ["SharedPassSweeper"]

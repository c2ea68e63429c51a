"""LightningDataModules around the readers of `saev.shards`."""

from datamodules.activations import ActivationDataModule

__all__ = ["ActivationDataModule"]

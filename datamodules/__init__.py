"""LightningDataModules around the readers of `saev.shards`."""

from datamodules.activations import ActivationDataModule
from datamodules.labelled import LabelledDataModule

__all__ = ["ActivationDataModule", "LabelledDataModule"]

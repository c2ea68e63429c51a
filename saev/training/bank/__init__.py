"""The bank as a LightningModule, and how processes divide it."""

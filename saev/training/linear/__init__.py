"""Linear probes as a LightningModule."""

"""LightningModules: thin shells that step banks of autoencoders."""

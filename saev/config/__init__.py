"""Hydra's side of the commands: schemas and bounds, members from overrides, the command line in Hydra's form."""

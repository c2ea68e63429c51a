"""saev record: images -> activations on disk. Prints the recording's directory."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.runs.tables import print_files, relative


def run(cfg: DictConfig) -> Path:
    """Record what is missing and return the recording's directory; prints credits and the directory."""
    recording = instantiate(cfg.record)
    directory = recording.run()
    if credit := recording.images.credits():
        print(credit)
    print_files({"recording": directory}, f"saev train dataset={relative(directory)} layer={recording.plan.layers[-1]}")
    return directory

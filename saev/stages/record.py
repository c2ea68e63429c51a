"""saev record: images -> activations on disk. Prints the recording's directory."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.progress import print_line, terminal
from saev.runs.tables import relative


def run(cfg: DictConfig) -> Path:
    """Record what is missing and return the recording's directory; prints credits and the directory."""
    recording = instantiate(cfg.record)
    directory = recording.run()
    if credit := recording.images.credits():
        print(credit)
    print_line(terminal(), f"next: saev train dataset={relative(directory)} layer={recording.plan.layers[-1]}")
    print_line(terminal(), str(relative(directory)))  # last, for scripts
    return directory

"""saev encode: dictionaries -> their sparse codes on recorded activations. Prints the directories."""

from pathlib import Path

from omegaconf import DictConfig

from saev.codes.encoding import encode_part
from saev.codes.settings import EncodeSettings
from saev.config.build import build
from saev.locks import parse_part
from saev.progress import print_line, terminal
from saev.runs.tables import relative


def run(cfg: DictConfig) -> list[Path]:
    """Encode by the named dictionaries what is not encoded yet; the folder of each one's codes, in their order."""
    directories = encode_part(
        list(cfg.dictionaries), cfg.dataset, build(EncodeSettings, cfg), parse_part(str(cfg.part), "part"),
        layer=cfg.layer, out=cfg.out, activations=cfg.paths.activations, progress=True,
    )  # fmt: skip
    for directory in dict.fromkeys(directories):  # copies of a dictionary share their codes
        print_line(terminal(), str(relative(directory)))
    return directories

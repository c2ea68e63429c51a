"""Detect which library wrote the files at a path."""

from pathlib import Path
from typing import Literal

from saev.checkpoint import CONFIG, WEIGHTS
from saev.interop import KNOWN, dictionary_learning, saelens, saev_checkpoint
from saev.interop.foreign import ForeignSAE, Options
from saev.interop.saev_layout import METADATA

Kind = Literal["ours", "saev", "saev shards", "SAELens", "dictionary_learning"]


def identify(path: Path) -> tuple[Kind, Path]:
    """(the format, the file or folder that its reader takes); ValueError listing the known formats for anything else."""
    if not path.exists():
        raise ValueError(f"{path} does not exist: check the path.")
    if path.is_file():
        if path.name in (saelens.CONFIG, saelens.WEIGHTS) or path.name in (CONFIG, WEIGHTS, METADATA):
            return identify(path.parent)
        with open(path, "rb") as file:  # saev's checkpoints begin with JSON, torch's with a zip header
            return ("saev" if file.read(1) == b"{" else "dictionary_learning"), path
    for name in ("sae.pt", "checkpoint/sae.pt"):
        if (path / name).is_file():
            return "saev", path / name
    if (path / METADATA).is_file() and any(path.glob("acts*.bin")):
        return "saev shards", path
    if (path / saelens.CONFIG).is_file() and (path / saelens.WEIGHTS).is_file():
        return "SAELens", path
    if (path / WEIGHTS).is_file() and (path / CONFIG).is_file():
        return "ours", path
    if (path / "ae.pt").is_file():
        return "dictionary_learning", path / "ae.pt"
    raise ValueError(f"{path} holds nothing that can be converted. Known formats:\n{KNOWN}")


def read(kind: Kind, path: Path, options: Options) -> ForeignSAE:
    """The SAE in files of the format `kind`; ValueError for options of other formats, and from its reader."""
    if kind != "saev":
        options.refuse(("centred", "mean"), f"{path} was written by {kind}, the option is for saev's checkpoints")
    if kind == "dictionary_learning":
        options.refuse(("scale",), f"{path} was written by {kind}, which folds its scale before it saves")
    readers = {"saev": saev_checkpoint.read, "SAELens": saelens.read, "dictionary_learning": dictionary_learning.read}
    return readers[kind](path, options)

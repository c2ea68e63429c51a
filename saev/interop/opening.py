"""Which library wrote what lies at a path."""

from pathlib import Path
from typing import Literal

from saev.checkpoint import CONFIG, WEIGHTS
from saev.interop import KNOWN, dictionary_learning, saelens, saev_checkpoint
from saev.interop.foreign import ForeignSAE, Options
from saev.interop.saev_layout import METADATA

Kind = Literal["ours", "saev", "saev shards", "SAELens", "dictionary_learning"]


def identify(path: Path) -> tuple[Kind, Path]:
    """(what it is, the file or folder that its reader takes); ValueError naming what is known where it is none of that."""
    if not path.exists():
        raise ValueError(f"{path} is not there: check the path.")
    if path.is_file():
        if path.name in (saelens.CONFIG, saelens.WEIGHTS) or path.name in (CONFIG, WEIGHTS, METADATA):
            return identify(path.parent)
        with open(path, "rb") as file:  # saev's checkpoints begin with JSON, torch's own with the mark of a zip file
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
    raise ValueError(f"{path} holds nothing that can be converted. Known are:\n{KNOWN}")


def read(kind: Kind, path: Path, options: Options) -> ForeignSAE:
    """The SAE that `identify` found; ValueError for options that it has no use for, and what its reader refuses."""
    unused = {"--centred-encoder": options.centred is not None, "--mean": options.mean is not None}
    if kind != "saev" and any(unused.values()):
        given = ", ".join(name for name, is_given in unused.items() if is_given)
        raise ValueError(f"{given}: {path} was written by {kind}, the option is for saev's checkpoints: leave it out.")
    if kind == "dictionary_learning" and options.scale is not None:
        raise ValueError(f"--scale: {path} was written by {kind}, which folds its scale before it saves: leave it out.")
    readers = {"saev": saev_checkpoint.read, "SAELens": saelens.read, "dictionary_learning": dictionary_learning.read}
    return readers[kind](path, options)

"""The folder of all outputs, checked before Hydra creates directories in it."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

DIRECTORIES = ("hydra.run.dir", "hydra.sweep.dir", "paths.outputs")
SHOW = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help")  # flags of commands that write nothing


def set_outputs(arguments: Sequence[str]) -> None:
    """Set SAEV_OUTPUTS from `paths.outputs=`: then runs are written there, and `last` is searched there, as well as recordings.

    ValueError where its value is not a single folder.
    """
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key != "paths.outputs":
            continue
        folder = value.strip("'\"")
        if not folder or "${" in folder or "\\" in folder or ("," in folder and folder == value):
            raise ValueError(f"{argument}: must be one folder, in quotes if its name needs them.")
        os.environ["SAEV_OUTPUTS"] = str(Path(folder).absolute())


def check_writable(arguments: Sequence[str]) -> None:
    """ValueError where a folder named on the command line, or the folder of all outputs, cannot be created or written."""
    if any(argument.split("=")[0] in SHOW for argument in arguments):
        return
    named = [argument.partition("=") for argument in arguments if argument.split("=")[0] in DIRECTORIES]
    folders = [(key, value) for key, _, value in named if "${" not in value]
    if not any(key == "hydra.run.dir" for key, _ in folders):
        folders.append(("SAEV_OUTPUTS", os.environ.get("SAEV_OUTPUTS", "outputs")))
    for key, value in folders:
        path = Path(value.strip("'\"")).absolute()
        existing = next(p for p in (path, *path.parents) if p.exists())
        try:  # os.access answers yes to root, also where the file system says no
            with tempfile.TemporaryDirectory(dir=existing):
                pass
        except OSError as error:
            raise ValueError(
                f"{key}={value}: nothing can be written in {existing} ({error.strerror}); choose another folder "
                "(hydra.run.dir=/a/folder for one run, `export SAEV_OUTPUTS=/a/folder` for all)."
            ) from error


def runs_root(verb: str = "train") -> Path:
    """The folder of all runs of a verb, by date."""
    return Path(os.environ.get("SAEV_OUTPUTS", "outputs")) / verb

"""Where a run will write: one folder for all of it, found unusable before Hydra tries to make folders there."""

import os
from collections.abc import Sequence
from pathlib import Path

DIRECTORIES = ("hydra.run.dir", "hydra.sweep.dir", "paths.outputs")
SHOW = ("--cfg", "-c", "--info", "-i", "--help", "-h", "--hydra-help")  # these write nothing


def follow(arguments: Sequence[str]) -> None:
    """Let `paths.outputs=` be what SAEV_OUTPUTS is: runs go there too, and `last` is looked for there, not recordings alone.

    ValueError where it is no plain folder, as runs could not follow it.
    """
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key != "paths.outputs":
            continue
        folder = value.strip("'\"")
        if not folder or "${" in folder or "\\" in folder or ("," in folder and folder == value):
            raise ValueError(f"{argument}: give one folder, in quotes where its name needs them.")
        os.environ["SAEV_OUTPUTS"] = str(Path(folder).absolute())


def check_writable(arguments: Sequence[str]) -> None:
    """ValueError where a folder named on the command line, or the folder of all outputs, cannot be made or written."""
    if any(argument.split("=")[0] in SHOW for argument in arguments):
        return
    named = [argument.partition("=") for argument in arguments if argument.split("=")[0] in DIRECTORIES]
    folders = [(key, value) for key, _, value in named if "${" not in value]
    if not any(key == "hydra.run.dir" for key, _ in folders):
        folders.append(("SAEV_OUTPUTS", os.environ.get("SAEV_OUTPUTS", "outputs")))
    for key, value in folders:
        path = Path(value.strip("'\"")).absolute()
        there = next(p for p in (path, *path.parents) if p.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            state = "may not be written to" if there.is_dir() else "is a file"
            raise ValueError(
                f"{key}={value}: {there} {state}; choose another folder (hydra.run.dir=/a/folder for one run, "
                "`export SAEV_OUTPUTS=/a/folder` for all)."
            )


def runs_root(verb: str = "train") -> Path:
    """The folder of all runs of a verb, by date."""
    return Path(os.environ.get("SAEV_OUTPUTS", "outputs")) / verb

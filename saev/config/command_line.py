"""Normalise the command line for Hydra."""

from collections.abc import Sequence

from saev.files import matching
from saev.runs.outputs import SHOW
from saev.runs.quoting import quote


def with_multirun(flags: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The flags, with -m if a launcher is named: Hydra ignores the launcher of a single run.

    >>> with_multirun([], ["hydra/launcher=slurm", "k=8"]), with_multirun(["--cfg", "job"], ["hydra/launcher=slurm"])
    (['-m'], ['--cfg', 'job'])
    """
    named = any(override.lstrip("+").startswith("hydra/launcher=") for override in overrides)
    decided = {*flags} & {*SHOW, "-m", "--multirun", "-r", "--run", "-sc", "--shell-completion"}
    return ["-m", *flags] if named and not decided else list(flags)


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(flags and their values, overrides), for Hydra 1.3, which needs the flags first.

    >>> split_flags(["experiment=x", "-m", "k=1,2", "--cfg", "job"])
    (['-m', '--cfg', 'job'], ['experiment=x', 'k=1,2'])
    """
    takes_value = [
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
    ]
    kinds = {
        "all",
        "config",
        "defaults",
        "defaults-tree",
        "plugins",
        "searchpath",
    }  # values of --info, which works without one
    flags, overrides, items = [], [], iter(arguments)
    for item in items:
        if flags and flags[-1] in ("--info", "-i") and item in kinds:
            flags.append(item)
            continue
        if not item.startswith("-"):
            overrides.append(item)
            continue
        flags.append(item)
        if item in takes_value:
            flags += [value for value in [next(items, None)] if value is not None]
    return flags, overrides


def directories_as_key(key: str, arguments: Sequence[str]) -> list[str]:
    """One override `key=[...]` for directories: arguments without `=` or that exist, glob patterns of them, and `key=DIRECTORY` or
    `key=PATTERN`.

    >>> directories_as_key("dictionaries", ["runs/a", "splice=true", "dictionaries=runs/b"])
    ['splice=true', 'dictionaries=["runs/a","runs/b"]']
    """
    plain, rest = [], []
    for item in arguments:
        named = item.removeprefix(f"{key}=")
        paths = matching(named)
        if paths:
            plain += paths
        elif ("=" not in item and not item.startswith("~")) or (named != item and not named.startswith("[")):
            plain.append(named)
        else:
            rest.append(item)
    if not plain:
        return rest
    quoted = ",".join(map(quote, plain))
    return [*rest, f"{key}=[{quoted}]"]

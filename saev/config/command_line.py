"""Normalise the command line for Hydra."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from saev.files import matching
from saev.runs.outputs import SHOW
from saev.runs.quoting import quote

CONF = Path(__file__).resolve().parents[2] / "conf"
CONDITIONS = ("a", "b", "where", "third")  # keys of saev contrast and saev map


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
        if paths := matching(named):
            plain += paths
        elif (
            is_path(item)
            or ("=" not in item and not item.startswith("~"))
            or (named != item and not named.startswith("["))
        ):
            plain.append(named)
        else:
            rest.append(item)
    if not plain:
        return rest
    quoted = ",".join(map(quote, plain))
    return [*rest, f"{key}=[{quoted}]"]


def is_path(argument: str) -> bool:
    """Whether an argument that contains `=` is a path: the part before `=` contains `/`, and names no group of the configuration.

    >>> is_path("saes/k=8"), is_path("hydra/launcher=basic"), is_path("k=8"), is_path("+logger/x=y")
    (True, False, False, False)
    """
    first, slash, _ = argument.lstrip("+~").partition("=")[0].partition("/")
    return bool(slash) and first != "hydra" and not (first and (CONF / first).is_dir())


def quote_values(overrides: Sequence[str]) -> list[str]:
    """The overrides with values quoted that hold characters with a meaning in Hydra's grammar: existing paths, and conditions
    (`a=sex=f`, `where=year>=1990`), which Hydra could not read without quotes.

    >>> quote_values(["a=sex=f|m,year>1990", "k=8", "b='x=y'"])
    ['a="sex=f|m,year>1990"', 'k=8', "b='x=y'"]
    """
    quoted = []
    for override in overrides:
        key, equals, value = override.partition("=")
        special = re.search(r"[^\w./~:%@?|+-]|[^\x00-\x7f]", value) and not re.search(r"[\"'\[{$]", value[:1])
        condition = key in CONDITIONS and re.search(r"[=<>]", value)
        unread = equals and special and (condition or os.path.exists(value))
        quoted.append(f"{key}={quote(value)}" if unread else override)
    return quoted


def without_demo(overrides: Sequence[str]) -> list[str]:
    """The overrides of `saev train`, with experiment=none where data or a backbone is named: the demo's settings are for its own.

    >>> without_demo(["dataset=mine", "k=8"]), without_demo(["k=8"]), without_demo(["images=folder", "experiment=demo"])
    (['experiment=none', 'dataset=mine', 'k=8'], ['k=8'], ['images=folder', 'experiment=demo'])
    """
    named = {override.lstrip("+").partition("=")[0].partition(".")[0] for override in overrides}
    demo = named & {"experiment", "ckpt_path"} or not named & {"dataset", "images", "vit"}
    return list(overrides) if demo else ["experiment=none", *overrides]

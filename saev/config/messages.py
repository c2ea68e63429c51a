"""Errors as one or two lines that name the key, the value and the remedy, in place of Hydra's lines and of tracebacks."""

import difflib
import errno
import functools
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.errors import CompactHydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from saev.config.command_line import CONF
from saev.runs.ledger import CHECKPOINT
from saev.runs.quoting import quote

FULL = (errno.ENOSPC, errno.EDQUOT)
STATISTICS = "statistics.pt"  # saev.probing.pipeline.CHECKPOINT, which imports torch


def message(error: BaseException, overrides: Sequence[str], directory: Path | None = None) -> str | None:
    """The message of a user error or of a full disk; None for an error that needs its traceback.

    `directory`: of the run, if it has begun.
    """
    if where := full_disk(error, directory):
        return where
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        if not equals:
            groups = (
                sorted(path.parent.name for path in CONF.glob(f"*/{key}.yaml")) if re.fullmatch(r"[\w-]+", key) else []
            )
            hint = f"give {' or '.join(f'{group}={key}' for group in groups) or 'key=value'}"
            return f"{error.override}: is no key=value; {hint}."
        within = re.sub(r"[^][,]*=[^][,]*", lambda item: quote(item[0]), value)  # of lists, their items
        quoted = f"'{key}={within if value.startswith('[') else quote(value)}'"
        return f"{error.override}: cannot be read as key=value; quote a value with special characters twice: {quoted}"
    if isinstance(error, MissingConfigException) and error.options:
        (group, _, name) = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        close = difflib.get_close_matches(name, error.options, 3, 0.6)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        return f"{group}={name}: there is no such choice. {hint}Choices: {', '.join(sorted(error.options))}."
    if not isinstance(error, CompactHydraException | OmegaConfBaseException | ValueError):
        return None
    text = str(error).removeprefix("error: ")
    if unknown := re.search(r"Could not override '([\w./@]+)'", text):
        typed = next((one for one in overrides if one.lstrip("+").startswith(unknown[1])), unknown[1])
        return f"{typed}: there is no key {unknown[1]}.{suggestion(unknown[1])}"
    if isinstance(error.__cause__, OmegaConfBaseException) and text.startswith("Error merging override "):
        first = str(error.__cause__).partition("\n")[0]
        return f"{text.removeprefix('Error merging override ')}: {first[:1].lower() + first[1:]}."
    return text.partition("\n    full_key")[0]


def full_disk(error: BaseException, directory: Path | None) -> str | None:
    """The message if the error, or one that it was raised from, is of a full disk."""
    for one in chain(error):
        full = isinstance(one, OSError) and one.errno in FULL
        unwritten = "No space left on device" in str(one) or "PytorchStreamWriter failed" in str(one)
        folder = next((p for p in (directory, *directory.parents) if p.is_dir()), None) if directory else None
        if full or (unwritten and folder and shutil.disk_usage(folder).free < 100_000_000):
            path, resume = getattr(one, "filename", None) or folder or "the outputs", "repeat the command"
            if directory is not None and (directory / CHECKPOINT).is_file():
                resume = f"resume with ckpt_path={directory}"
            elif directory is not None and (directory / STATISTICS).is_file():
                resume = f"repeat the command with hydra.run.dir={directory}"
            return f"the disk of {path} is full. What was finished before is complete: make room, then {resume}."
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def check_added(overrides: Sequence[str]) -> None:
    """ValueError for `+key=value` with a key that no configuration has: Hydra would add it, and nothing would read it."""
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if override.startswith("+") and key.isidentifier() and key not in known_keys():
            raise ValueError(f"{override}: there is no key {key}.{suggestion(key)}")


@functools.cache
def known_keys() -> frozenset[str]:
    """The keys and groups of all configurations."""
    text = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
    return frozenset(re.findall(r"^[\s-]*(\w+):", text, re.M))  # groups stand in lists of defaults


def suggestion(key: str) -> str:
    """A sentence that names the keys closest to an unknown one, or nothing."""
    known = known_keys()
    close = difflib.get_close_matches(key.split(".")[-1], sorted(known), 3, 0.6)
    if not close:  # `kk` for `k` is too short to be close
        close = [name for name in sorted(known) if set(name) == set(key) and len(name) <= 2]
    return f" Did you mean {' or '.join(close)}?" if close else " `--help` lists the keys."

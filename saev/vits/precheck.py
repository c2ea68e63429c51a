"""What can be known to be wrong with a recording before it starts; each ValueError names key, value and remedy."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from saev.vits.hooks import HOOKS

CHOICES = {
    "hook": HOOKS,
    "dtype": ("float16", "float32", "int8"),
    "order": ("shuffled", "sorted"),
    "on_error": ("skip", "stop"),
    "autocast": ("bfloat16", "float16", False),
}
POSITIVE = ("batch_size", "n_workers", "shard_mb")


def check_knobs(recording: object) -> None:
    """Choices among those there are, numbers above 0 (None: not used)."""
    for key, allowed in CHOICES.items():
        if (value := getattr(recording, key)) not in allowed:
            choices = ", ".join(str(choice).lower() for choice in allowed)
            raise ValueError(f"record.{key}={value} is not known: choose {choices}.")
    for key in POSITIVE:
        if (value := getattr(recording, key)) is not None and value <= 0:
            raise ValueError(f"record.{key}={value} is too small: give a number above 0.")


def said_by(check: Callable[[], None]) -> str | None:
    """What a check complains of, or None."""
    try:
        return check()
    except ValueError as error:
        return str(error)


def parse_part(part: str, key: str = "record.part") -> tuple[int, int]:
    """(number, of how many) of a part written i/n; `key` is the setting, for the message.

    >>> parse_part("3/8")
    (3, 8)
    """
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or not int(found[1]) < int(found[2]):
        raise ValueError(f"{key}={part} is not a part: write i/n with i from 0 to n-1, e.g. {key}=0/8.")
    return int(found[1]), int(found[2])


def check_disk(root: Path, directory: Path, n_bytes: int) -> None:
    """ValueError where `root` cannot be written, or has not the room for what `directory` still lacks of n_bytes."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            free = shutil.disk_usage(root).free
    except OSError as error:
        raise ValueError(f"record.root={root} cannot be written ({error.strerror}): choose another folder.") from error
    needed = n_bytes - sum(file.stat().st_size for file in directory.glob("layer-*/*.tar"))
    if needed > free:
        raise ValueError(
            f"record.root={root} has {free / 1e9:.3g} GB free, the recording needs {needed / 1e9:.3g} GB: choose "
            "another disk (record.root=/big/disk), fewer layers, or record.dtype=float16 or int8."
        )

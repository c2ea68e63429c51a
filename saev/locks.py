"""One process at a time: locks that end with the process that holds them, however it ends."""

import fcntl
import glob
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLL_S = 0.5
PATIENCE_S = 0.5


class Busy(ValueError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Path, busy: str | None = None, mode: int = 0o644) -> Iterator[None]:
    """Hold the lock file `path` (permissions `mode`). If another process holds it, wait, or raise Busy(busy) if a message is given.

    Busy is raised after half a second, because `is_locked` holds the lock for a moment.
    """
    from filelock import FileLock, Timeout  # slow to import

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=PATIENCE_S if busy else -1, mode=mode)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(busy) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def part_of(folder: Path, name: str, number: int, n_parts: int) -> Iterator[None]:
    """Hold part `number` of `n_parts` of the work `name`; waits while other processes divide it into another number of parts.

    Parts of one division run side by side. Two divisions would write the same shards.
    """
    path = folder / f"{name}-{number}-of-{n_parts}"
    with ExitStack() as held:
        while True:
            with exclusive(folder / f"{name}-start"), suppress(Busy):
                others = (
                    p for p in folder.glob(f"{glob.escape(name)}-*-of-*") if not p.name.endswith(f"-of-{n_parts}")
                )
                if not any(is_locked(other) for other in others):
                    held.enter_context(exclusive(path, busy=f"{path} is held"))
                    break
            time.sleep(POLL_S)
        yield


def parse_part(part: str, key: str = "record.part") -> tuple[int, int]:
    """(number, number of parts) of a part written i/n; ValueError naming the setting `key`.

    >>> parse_part("3/8")
    (3, 8)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"{key}={part}: must be i/n with i from 0 to n-1, e.g. {key}=0/8.")
    return int(match[1]), int(match[2])


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file; needs no permission to write, unlike a FileLock."""
    if not path.is_file():
        return False
    with suppress(FileNotFoundError), open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

"""One process at a time: locks that end with the process that holds them, however it ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLL_S = 0.5
LOOK_S = 0.5


class Busy(ValueError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`; where another process holds it, wait, or raise Busy(busy) if that is given.

    Busy comes after a moment only: a process that asks `is_locked` holds the lock for that long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        patience = time.monotonic() + LOOK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
                break
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise Busy(busy) from None
                time.sleep(LOOK_S / 10)
        yield


@contextmanager
def part_of(folder: Path, name: str, number: int, n_parts: int) -> Iterator[None]:
    """Hold part `number` of `n_parts` of the work `name`; waits while others divide the same work differently.

    Parts of one division go on side by side. Two divisions would meet at the same shards.
    """
    own = folder / f"{name}-{number}-of-{n_parts}"
    with ExitStack() as held:
        while True:
            with exclusive(folder / f"{name}-start"), suppress(Busy):
                others = (p for p in folder.glob(f"{name}-*-of-*") if not p.name.endswith(f"-of-{n_parts}"))
                if not any(is_locked(path) for path in others):
                    held.enter_context(exclusive(own, busy=f"{own} is held"))
                    break
            time.sleep(POLL_S)
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock file."""
    if not path.is_file():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

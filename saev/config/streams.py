"""Output streams of a command that ignore a closed pipe."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def ignoring_broken_pipes() -> Iterator[None]:
    """Ignore BrokenPipeError of stdout and stderr, so that `| head` does not abort the command."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = BrokenPipeIgnored(sys.stdout), BrokenPipeIgnored(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()  # at exit the interpreter would report the error
        sys.stdout, sys.stderr = streams


class BrokenPipeIgnored:
    """The given stream, discarding text once its pipe is closed."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._or_nowhere():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._or_nowhere():
            self.stream.flush()

    @contextlib.contextmanager
    def _or_nowhere(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # the stream's buffer is then written to the null device, too
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())

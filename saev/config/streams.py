"""Where a command writes: streams that outlast their readers, and one that writes to two places."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def outlasting_readers() -> Iterator[None]:
    """Within, a reader of stdout or stderr may leave when it has seen enough (`| head`); the command goes on to its end."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Outlasting(sys.stdout), Outlasting(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()  # the interpreter, which would do it at last, makes an error of it
        sys.stdout, sys.stderr = streams


class Outlasting:
    """A stream whose text goes nowhere once its reader has left, and that otherwise is the given one."""

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
        except BrokenPipeError:  # what is in the stream's buffer is then written there, too
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


class Tee(io.TextIOBase):
    """A stream that writes to two places and otherwise is the first one."""

    def __init__(self, first: Callable[[str], object], second: Callable[[str], object], stream: Any):
        self.first, self.second, self.stream = first, second, stream

    def write(self, text: str) -> int:
        self.first(text)
        self.second(text)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

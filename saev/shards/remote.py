"""The bytes of a file at an address, in order: failures are named, retried with growing delays, and given up after a time.

http(s), ftp: through curl; s3, gs: through aws, gsutil; pipe: a shell command's output; else a local path
"""

import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

log = logging.getLogger(__name__)

STALL_S = 30.0  # a source that sends nothing for so long has failed
POLL_S = 0.2
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0
RETRY_S = 600.0  # default of datamodule.retry_s
CURL = ("curl", "--fail", "--silent", "--show-error", "--location", "--globoff", "--connect-timeout", "20")
SELF_ENDING = ("--speed-limit", "1", "--speed-time", "300")  # if this process is killed and cannot end it
COMMANDS = {"s3": ("aws", "s3", "cp", "--only-show-errors", "{url}", "-"), "gs": ("gsutil", "cat", "{url}")}


class Closed(Exception):
    """The stream was closed while it was being read."""


class Failure(Exception):
    """Why a transfer ended; `final` where another try cannot succeed."""

    def __init__(self, reason: str, final: bool = False):
        super().__init__(reason)
        self.final = final


def is_remote(address: str) -> bool:
    """Whether the address is not a local path."""
    return address.startswith("pipe:") or "://" in address


def command_of(url: str) -> list[str]:
    """The command that writes the file to its standard output; ValueError for a scheme that is not known."""
    scheme, _, command = url.partition(":")
    if scheme == "pipe":
        return ["/bin/sh", "-c", command]
    if scheme in ("http", "https", "ftp", "ftps"):
        return [*CURL, *SELF_ENDING, "--", url]
    if scheme in COMMANDS:
        return [url if word == "{url}" else word for word in COMMANDS[scheme]]
    raise ValueError(
        f"dataset={url}: {scheme}:// is not known; use http(s)://, s3://, gs:// or 'pipe:COMMAND {{file}}'."
    )


class Source:
    """Reads a file in order; a transfer that fails or is silent starts anew and continues at the byte that comes next.

    Args:
        url: address, `pipe:` command or local path.
        retry_s: seconds without progress after which a failing source is given up.
        closing: asked several times a second; reading raises Closed once it returns True.
    """

    def __init__(self, url: str, retry_s: float = 0, closing: Callable[[], bool] = lambda: False):
        self.url, self.retry_s, self.closing = url, retry_s, closing
        self.process: subprocess.Popen[bytes] | None = None
        self.file: IO[bytes] | None = None
        self.errors: Any = None
        self.at = self.skip = 0  # bytes delivered, and bytes of a new transfer that were delivered before
        self.progress, self.delay = time.monotonic(), FIRST_DELAY_S

    def read(self, n: int) -> bytes:
        """The next n bytes, fewer at the end of the file; ValueError naming the address where it cannot be read."""
        parts, left = [], n
        while left and (part := self._some(left)):
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, n: int) -> bytes:
        while True:
            try:
                part = self._receive(n)
            except Failure as failure:
                self.close()
                self._wait(failure)
            else:
                self.at += len(part)
                self.progress, self.delay = time.monotonic(), FIRST_DELAY_S
                return part

    def _receive(self, n: int) -> bytes:
        """At least one new byte, none at the end of the file."""
        file = self.file or self._open()
        heard = time.monotonic()
        while True:
            while not readable(file):
                if self.closing():
                    raise Closed
                if time.monotonic() - heard > STALL_S:
                    raise Failure(f"has sent nothing for {STALL_S:.0f} s")
            if self.closing():
                raise Closed
            part = os.read(file.fileno(), min(self.skip or n, 1 << 24))
            heard = time.monotonic()
            if not part:
                self._check_end()
                return part
            if not self.skip:
                return part
            self.skip -= len(part)

    def _open(self) -> IO[bytes]:
        self.skip = self.at
        try:
            if not is_remote(self.url):
                self.file = open(self.url, "rb", buffering=0)  # noqa: SIM115 close
                return self.file
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 close
            # in a session of its own, so that Ctrl-C does not end it before this process has answered
            self.process = subprocess.Popen(
                command_of(self.url), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors,
                bufsize=0, pipesize=1 << 20, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Failure(f"cannot be opened ({error.strerror}: {error.filename})", final=True) from error
        assert self.process.stdout is not None
        self.file = self.process.stdout
        return self.file

    def _check_end(self) -> None:
        if self.process is not None and (code := self.process.wait()):
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise failure_of(self.url, code, lines[-1])
        if self.skip:
            raise Failure(f"is shorter than the {self.at} bytes read before: it has changed", final=True)

    def _wait(self, failure: Failure) -> None:
        waited = time.monotonic() - self.progress
        if failure.final or waited + self.delay > self.retry_s:
            after = (
                f"; given up after {waited:.0f} s (datamodule.retry_s)" if self.retry_s and not failure.final else ""
            )
            raise ValueError(f"{self.url} {failure}{after}") from failure
        log.warning("%s %s; trying again in %.0f s (Ctrl-C stops)", self.url, failure, self.delay)
        until, self.delay = time.monotonic() + self.delay, min(2 * self.delay, LONGEST_DELAY_S)
        while time.monotonic() < until:
            if self.closing():
                raise Closed
            time.sleep(POLL_S)

    def close(self) -> None:
        """End the command and close its output."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # a shell's children, too
            self.process.wait()
        for file in (self.file, self.errors):
            if file is not None:
                file.close()
        self.process = self.file = self.errors = None


@contextlib.contextmanager
def opened(url: str, retry_s: float = 0) -> Iterator[Source]:
    """A source that is closed at the end of the block."""
    source = Source(url, retry_s)
    try:
        yield source
    finally:
        source.close()


def readable(file: IO[bytes]) -> bool:
    """Whether bytes, or the end, arrive within POLL_S."""
    poll = select.poll()
    poll.register(file, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(1000 * POLL_S))


def failure_of(url: str, code: int, message: str) -> Failure:
    """What the exit code and the last message of a command mean.

    >>> [str(failure_of("http://h/x", 22, f"curl: (22) The requested URL returned error: {n}")) for n in (404, 503)]
    ['does not exist there (HTTP 404)', 'is not delivered (HTTP 503)']
    """
    if url.startswith("pipe:"):  # 255: ssh lost its connection; 129 and more, and negative ones: a signal
        return Failure(f"ends with exit code {code}: {message}", final=0 < code < 128)
    status = int(found[1]) if code == 22 and (found := re.search(r"error: (\d+)", message)) else None
    if status is not None:
        gone = status in (404, 410)
        reason = f"{'does not exist there' if gone else 'is not delivered'} (HTTP {status})"
        return Failure(reason, final=status < 500 and status not in (408, 429))
    reason = re.sub(r"^curl: \(\d+\) ", "", message)
    return Failure(f"cannot be read ({reason})", final=code in (1, 3))

"""The explorer's server: `marimo run` of app.py (by preloaded.py) on 127.0.0.1 behind a random token.

The token reaches marimo through a pipe, so that `ps` does not show it; the session through a file that the user alone can read.
"""

import contextlib
import dataclasses
import os
import pickle
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from saev.explore.opening import Session

HOST = "127.0.0.1"
VARIABLE = "SAEV_EXPLORE"  # the session's file
APP = Path(__file__).with_name("app.py")
PATIENCE = 120  # seconds until marimo answers


@dataclasses.dataclass(frozen=True)
class Server:
    """A running explorer."""

    port: int
    token: str
    process: subprocess.Popen

    @property
    def address(self) -> str:
        """Its address with the token."""
        return f"http://{HOST}:{self.port}/?access_token={self.token}"

    @property
    def tunnel(self) -> str:
        """The command that forwards the port from another computer."""
        return f"ssh -N -L {self.port}:{HOST}:{self.port} {os.environ.get('USER', 'user')}@{socket.gethostname()}"


@contextlib.contextmanager
def serving(session: Session, port: int = 0) -> Iterator[Server]:
    """The explorer of a session, answering; it ends with the block. ValueError where the port is taken or marimo does not start.

    Args:
        port: 0: a free one.
    """
    port = free_port(port)
    token = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="saev-explore-") as folder:  # mode 0700
        file = Path(folder, "session")
        file.write_bytes(pickle.dumps(session))
        command = [sys.executable, "-m", "saev.explore.preloaded", "--quiet", "run", str(APP), "--headless"]
        command += ["--host", HOST, "--port", str(port)]
        command += ["--no-sandbox", "--token", "--token-password-file", "-"]
        environment = os.environ | {VARIABLE: str(file)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        try:
            assert process.stdin is not None
            process.stdin.write(token.encode())
            process.stdin.close()
            wait_for(process, port)
            yield Server(port, token, process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port(port: int) -> int:
    """The port, or a free one for 0; ValueError where it is taken."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"--port {port}: {error.strerror}; leave it out for a free one.") from error
        return one.getsockname()[1]


def wait_for(process: subprocess.Popen, port: int) -> None:
    """Return when the server answers; ValueError where it has ended or does not answer."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ValueError("the explorer's server did not start: see the lines above.")


@cache
def current() -> Session:
    """The session of this server's process."""
    with open(os.environ[VARIABLE], "rb") as file:
        return pickle.load(file)

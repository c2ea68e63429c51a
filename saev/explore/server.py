"""The explorer's server: app.py by marimo on 127.0.0.1 behind a random token, in a thread of this process."""

import contextlib
import dataclasses
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from saev.explore.opening import Session

HOST = "127.0.0.1"
APP = Path(__file__).with_name("app.py")
SESSIONS: list[Session] = []  # that are served; app.py shows the last


@dataclasses.dataclass(frozen=True)
class Server:
    """A running explorer."""

    port: int
    token: str
    thread: threading.Thread

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
    """The explorer of a session, answering; it ends with the block. ValueError where the port is taken or the server does not start.

    Args:
        port: 0: a free one.
    """
    import marimo
    import uvicorn

    token = secrets.token_urlsafe(24)
    with bound(port) as listener, shown(session):
        app = marimo.create_asgi_app(quiet=True, token=token).with_app(path="/", root=str(APP)).build()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="explorer", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            if not server.started:
                raise ValueError("the explorer's server did not start: see the lines above.")
            yield Server(listener.getsockname()[1], token, thread)
        finally:
            server.should_exit = True
            thread.join(10)


@contextlib.contextmanager
def bound(port: int) -> Iterator[socket.socket]:
    """A socket on this port, or on a free one for 0; ValueError where it is taken."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
            one.listen()
        except OSError as error:
            raise ValueError(f"--port {port}: {error.strerror}; leave it out for a free one.") from error
        yield one


@contextlib.contextmanager
def shown(session: Session) -> Iterator[None]:
    """Let app.py show this session."""
    SESSIONS.append(session)
    try:
        yield
    finally:
        SESSIONS.remove(session)


def current() -> Session:
    """The session that app.py shows."""
    return SESSIONS[-1]
